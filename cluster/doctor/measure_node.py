"""What a layer, its experts, the head and a step cost with all experts in the gateway.

The engine measured is the one that serves: built by ``build_gateway``, over a small checkpoint
whose layers have the true shape. Steps run on the calling thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch

from cluster.doctor.device_times import SyncedTimer, expert_runs_of, without_experts
from cluster.doctor.fit import (
    ExpertPoint,
    Point,
    Residuals,
    fit_curve,
    fit_experts,
    relative_drift,
)
from cluster.doctor.layer_fit import LayerFit, LayerPoint, fit_layer
from cluster.doctor.measure_engine import EngineCosts, measure_engine
from cluster.doctor.setup import Subject, gateway_settings, topology_of
from cluster.doctor.steps import (
    MeasurePlan,
    Rounds,
    StepSample,
    StepShape,
    chunks_of,
    mean_touched,
    routing_of,
    run_step,
)
from cluster.planning.costs import Curve, ExpertCost
from galerne.topology import LinkTransport
from router.gateway.build import build_gateway
from router.model.runner import PagedRunner
from shards.checkpoint.config import ModelConfig
from shards.cores import available_cores
from shards.kernels.kinds import torch_device

_ENGINE_SHARE = 0.25  # of the time


class Measured(NamedTuple):
    """One step's content, and the medians over its repetitions; seconds of one layer."""

    shape: StepShape
    num_touched: float
    layer_s: float
    experts_s: float
    head_s: float  # of the step
    samples: Sequence[StepSample]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCosts:
    """Costs with all experts in the gateway."""

    layer: LayerFit
    experts: ExpertCost
    head: Curve
    engine: EngineCosts
    residuals: Mapping[str, Residuals]
    drift: float  # last round against first, median over steps


def measure_node(subject: Subject, plan: MeasurePlan, deadline_s: float) -> LocalCosts:
    """Measure until ``deadline_s`` of ``time.monotonic``; a few rounds are made even so.

    Raises:
        CheckpointError, ConfigError: See ``build_gateway``.
    """
    steps = plan.steps(subject.model.max_position_embeddings)
    settings = gateway_settings(subject, topology_of(subject.model, LinkTransport.LOCAL, 1), steps)
    had_threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    built = build_gateway(settings, None, lambda _: None, lambda *_: None)
    if subject.has_gpu_gateway:
        built.runner.timer = SyncedTimer(torch_device(subject.device))
    try:
        now_s = time.monotonic()
        steps_until_s = now_s + (deadline_s - now_s) * (1 - _ENGINE_SHARE)
        measured = measure_steps(built.runner, subject.model, steps, steps_until_s)
        engine = measure_engine(built, subject.model, plan.decode_sequences, deadline_s)
    finally:
        built.runner.close()
        torch.set_num_threads(had_threads)
    layer = fit_layer([LayerPoint(m.shape, m.layer_s) for m in measured])
    top_k = subject.model.num_experts_per_tok
    experts = fit_experts(
        [ExpertPoint(m.num_touched, m.shape.num_tokens * top_k, m.experts_s) for m in measured]
    )
    head = fit_curve([Point(m.shape.num_sequences, m.head_s) for m in measured])
    residuals = {"layer": layer.residuals, "experts": experts.residuals, "head": head.residuals}
    return LocalCosts(
        layer=layer,
        experts=experts.cost,
        head=head.curve,
        engine=engine,
        residuals=residuals | {"step": engine.residuals},
        drift=drift_of(measured),
    )


def measure_steps(
    runner: PagedRunner,
    model: ModelConfig,
    steps: Sequence[StepShape],
    deadline_s: float,
) -> list[Measured]:
    """Every step several times, round by round; medians."""
    num_layers = model.num_layers
    chunks = [chunks_of(step, model.vocab_size, seed) for seed, step in enumerate(steps)]
    routings = [routing_of(runner, c) for c in chunks]
    touched = [mean_touched(routing) for routing in routings]
    on_device = expert_runs_of(runner, num_layers, routings, model.hidden_size)
    for each in chunks:  # what the first run allocates, the second finds
        run_step(runner, 0, each)
    samples: list[list[StepSample]] = [[] for _ in steps]
    for number in Rounds(deadline_s):
        for at, (some, each) in enumerate(zip(samples, chunks, strict=True)):
            sample = run_step(runner, number, each)
            if on_device is not None:
                sample = without_experts(sample, on_device[at].seconds())
            some.append(sample)
    return [
        Measured(
            shape=step,
            num_touched=num,
            layer_s=median(s.layers_s for s in some) / num_layers,
            experts_s=median(s.experts_s for s in some) / num_layers,
            head_s=median(s.head_s for s in some),
            samples=some,
        )
        for step, num, some in zip(steps, touched, samples, strict=True)
    ]


def drift_of(measured: Sequence[Measured]) -> float:
    """Relative difference of the last repetition from the first: the machine's own."""
    first, last = ([_whole_s(m.samples[at]) for m in measured] for at in (0, -1))
    return relative_drift(first, last)


def _whole_s(sample: StepSample) -> float:
    return sample.loop_s + sample.experts_s + sample.dispatch_s + sample.head_s
