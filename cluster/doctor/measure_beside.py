"""What a layer costs beside shards on the same cores, and what a shard's experts cost there.

A real gateway over real shards by shared memory, a shard for each core as far as they were
started. The gateway is threaded as ``plan_serving`` has it on one host: all cores up to the gate,
while the shards have nothing to do, and one thread while they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from cluster.doctor.fit import ExpertPoint, FittedCurve, Residuals, fit_experts, residuals_of
from cluster.doctor.layer_fit import LayerFit, LayerPoint, own_curve
from cluster.doctor.measure_link import await_links
from cluster.doctor.setup import Subject, gateway_settings, topology_of
from cluster.doctor.shard_processes import ShardProcesses
from cluster.doctor.steps import (
    MeasurePlan,
    Rounds,
    StepSample,
    StepShape,
    chunks_of,
    routing_of,
    run_step,
)
from cluster.planning.costs import Curve, ExpertCost
from galerne.topology import LinkTransport, Topology
from router.exchange.dispatch import Ints
from router.gateway.build import build_gateway
from router.model.runner import PagedRunner
from shards.cores import available_cores

_MIN_S = 1e-7  # of a shard's pass; one without a row takes none


class BesideCosts(NamedTuple):
    """Costs where gateway and shards share a machine."""

    layer: Curve
    shard_experts: ExpertCost
    layer_residuals: Residuals
    expert_residuals: Residuals
    steps: Sequence[BesideStep]


class BesideStep(NamedTuple):
    """One step: medians, in seconds of one layer, but for the head."""

    shape: StepShape
    layer_s: float  # with Python between the parts, without attention's share per key
    dispatch_s: float
    wait_s: float  # experts and wire, from the gateway
    head_s: float
    shards: Sequence[ExpertPoint]  # what every shard computed


def measure_beside(
    subject: Subject,
    shards: ShardProcesses,
    plan: MeasurePlan,
    local: LayerFit,
    deadline_s: float,
) -> BesideCosts:
    """Measure until ``deadline_s`` of ``time.monotonic``; a few rounds are made even so.

    ``local``: as ``measure_node`` found it; attention runs on all cores here too.

    Raises:
        MeasureProcessError: A shard has ended, or cannot be reached.
        CheckpointError, ConfigError: See ``build_gateway``.
    """
    count = max(shards.counts)
    topology = topology_of(subject.model, LinkTransport.SHM, count)
    steps = _steps(plan, subject.model.max_position_embeddings)
    had_threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    settings = gateway_settings(subject, topology, steps)
    built = build_gateway(settings, shards, lambda _: None, lambda *_: None)
    try:
        await_links(built.runner.exchange)
        measured = _measure(subject, built.runner, shards, topology, steps, deadline_s)
    finally:
        built.runner.close()
        torch.set_num_threads(had_threads)
    layer = _fit_layer(measured, local)
    experts = fit_experts([p for step in measured for p in step.shards if p.num_rows])
    return BesideCosts(layer.curve, experts.cost, layer.residuals, experts.residuals, measured)


def _steps(plan: MeasurePlan, max_positions: int) -> list[StepShape]:
    """Those of the plan with a short context: attention is known by now."""
    steps = plan.steps(max_positions)
    shortest = min(step.context for step in steps if step.num_new == 1)
    return [s for s in steps if s.context == (shortest if s.num_new == 1 else 0)]


def _measure(
    subject: Subject,
    runner: PagedRunner,
    shards: ShardProcesses,
    topology: Topology,
    steps: Sequence[StepShape],
    deadline_s: float,
) -> list[BesideStep]:
    count = len(topology.shards)
    num_layers = subject.model.num_layers
    chunks = [chunks_of(step, subject.model.vocab_size, seed) for seed, step in enumerate(steps)]
    work = [_work(routing_of(runner, each), topology) for each in chunks]
    samples: list[list[StepSample]] = [[] for _ in steps]
    computed: list[list[list[float]]] = [[] for _ in steps]
    for number in Rounds(deadline_s):
        for index, each in enumerate(chunks):
            before = shards.counters(count)
            samples[index].append(run_step(runner, number, each))
            after = shards.counters(count)
            computed[index].append(
                [a.since(b).compute_s / num_layers for a, b in zip(after, before, strict=True)]
            )
    return [
        BesideStep(
            shape=step,
            layer_s=median(s.loop_s for s in some) / num_layers,
            dispatch_s=median(s.dispatch_s for s in some) / num_layers,
            wait_s=median(s.experts_s for s in some) / num_layers,
            head_s=median(s.head_s for s in some),
            shards=[
                ExpertPoint(touched, rows, max(median(seconds), _MIN_S))
                for (touched, rows), seconds in zip(of_shard, zip(*spent, strict=True), strict=True)
            ],
        )
        for step, some, of_shard, spent in zip(steps, samples, work, computed, strict=True)
    ]


def _work(routing: Sequence[Ints], topology: Topology) -> list[tuple[float, float]]:
    """(distinct experts, rows) of every shard, on average over layers."""
    shard_of = np.array(
        [
            [topology.shards.index(replicas[0]) for replicas in layer]
            for layer in topology.placement.by_layer
        ]
    )
    found = []
    for number in range(len(topology.shards)):
        mine = [ids[shard_of[layer][ids] == number] for layer, ids in enumerate(routing)]
        touched = float(np.mean([len(np.unique(ids)) for ids in mine]))
        found.append((touched, float(np.mean([len(ids) for ids in mine]))))
    return found


def _fit_layer(measured: Sequence[BesideStep], local: LayerFit) -> FittedCurve:
    points = [LayerPoint(step.shape, step.layer_s) for step in measured]
    per_key = (local.attention_s, local.chunk_attention_s)
    curve = own_curve(points, *per_key)
    whole = np.array([step.layer_s for step in measured])
    fitted = [
        curve.seconds(step.shape.num_tokens)
        + per_key[step.shape.num_new > 1] * step.shape.num_pairs
        for step in measured
    ]
    return FittedCurve(curve, residuals_of(np.array(fitted), whole))
