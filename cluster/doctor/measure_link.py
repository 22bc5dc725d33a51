"""What a message costs between a gateway and its shards on this host, by shared memory or gRPC.

The real exchange, made as a gateway makes it, with shards in other processes, no more of them than
cores. The experts' own time, of the slowest shard, is taken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from cluster.doctor.gpu import synchronise
from cluster.doctor.line_process import MeasureProcessError
from cluster.doctor.link_fit import LinkFit, LinkPoint, fit_link
from cluster.doctor.setup import Subject, gateway_settings, topology_of
from cluster.doctor.shard_processes import Counters, ShardProcesses, wait_monotonic
from cluster.doctor.steps import MeasurePlan, Rounds, StepShape
from galerne.topology import LinkTransport, Topology
from router.exchange.dispatch import Ints
from router.exchange.links import LinkState
from router.gateway.experts import ExpertSources
from router.gateway.settings import DTYPES
from router.model.experts_port import RoutedExperts
from shards.checkpoint.open import open_checkpoint
from shards.kernels.kinds import torch_device
from shards.nccl.process import NcclProcess

_LINKS_UP_S = 20.0
_BURST_S = 0.02  # calls go on for so long between two looks at the counters
_MAX_CALLS = 50
_SEED = 7


class LinkSample(NamedTuple):
    """Means over one burst of calls, per call."""

    wall_s: float
    compute_s: float  # of the slowest shard
    shard_s: float  # beside it, of its process, a message


def measure_links(
    subject: Subject,
    shards: ShardProcesses,
    plan: MeasurePlan,
    deadline_s: float,
    transports: Sequence[LinkTransport] = (LinkTransport.SHM, LinkTransport.GRPC),
    nccl: NcclProcess | None = None,
) -> dict[LinkTransport, LinkFit]:
    """Measure until ``deadline_s`` of ``time.monotonic``; a few rounds are made even so.

    NCCL comes last: results that stay on a GPU are not waited for where they are computed, so the
    experts' time is that of the same calls over the transport before it.

    ``nccl`` unset: that of this process' GPU.

    Raises:
        MeasureProcessError: A shard has ended, or cannot be reached, or not by NCCL.
    """
    found: dict[LinkTransport, LinkFit] = {}
    before: list[LinkPoint] = []
    for number, transport in enumerate(transports):
        now_s = time.monotonic()
        until_s = now_s + (deadline_s - now_s) / (len(transports) - number)
        points = [
            point
            for count in shards.counts
            for point in _measure_count(subject, shards, plan, transport, count, until_s, nccl)
        ]
        if transport is LinkTransport.NCCL:
            points = with_compute_of(points, before)
        found[transport] = fit_link(points)
        before = points
    return found


def with_compute_of(points: Sequence[LinkPoint], known: Sequence[LinkPoint]) -> list[LinkPoint]:
    """Points with the experts' time of the same calls elsewhere. Pure.

    Raises:
        ValueError: They are not the same calls.
    """
    if [(p.num_messages, p.num_bytes) for p in points] != [
        (p.num_messages, p.num_bytes) for p in known
    ]:
        raise ValueError("points: must be of the same calls as those whose experts' time is known")
    pairs = zip(points, known, strict=True)
    return [point._replace(compute_s=other.compute_s) for point, other in pairs]


@contextmanager
def connected(
    subject: Subject,
    shards: ShardProcesses,
    topology: Topology,
    nccl: NcclProcess | None = None,
) -> Iterator[RoutedExperts]:
    """The exchange of a gateway with all links up, by NCCL if that was asked for.

    Raises:
        MeasureProcessError: A shard cannot be reached, or a link has gone by gRPC instead of NCCL.
    """
    settings = gateway_settings(subject, topology, [StepShape(1, 1, 0)])
    checkpoint = open_checkpoint(subject.path)
    sources = ExpertSources(settings, checkpoint, shards, lambda *_: None, nccl)
    exchange = sources.experts_of(topology)
    try:
        await_links(exchange)
        _check_nccl(sources, topology)
        yield exchange
        _check_nccl(sources, topology)
    finally:
        exchange.close()
        if nccl is None:
            sources.nccl.stop()


def _check_nccl(sources: ExpertSources, topology: Topology) -> None:
    """Links that NCCL has failed go by gRPC: their times are not NCCL's."""
    if topology.transport is not LinkTransport.NCCL:
        return
    joined, wanted = sources.nccl.num_links, len(topology.shards)
    if joined < wanted:
        raise MeasureProcessError(topology.shards[0], f"{joined} of {wanted} links go by NCCL")


def await_links(exchange: RoutedExperts) -> None:
    """Poll until all links are up.

    Raises:
        MeasureProcessError: One does not come up in time.
    """
    until_s = time.monotonic() + _LINKS_UP_S
    while True:
        exchange.poll()
        down = [s for s, state in exchange.links.items() if state is not LinkState.UP]
        if not down:
            return
        if not wait_monotonic(until_s):
            raise MeasureProcessError(down[0], f"could not be reached in {_LINKS_UP_S:g} s")


def _measure_count(
    subject: Subject,
    shards: ShardProcesses,
    plan: MeasurePlan,
    transport: LinkTransport,
    count: int,
    until_s: float,
    nccl: NcclProcess | None,
) -> list[LinkPoint]:
    topology = topology_of(subject.model, transport, count)
    left = [c for c in shards.counts if c >= count]
    now_s = time.monotonic()
    own_until_s = now_s + (until_s - now_s) / len(left)
    calls = [_Call(subject, topology, tokens) for tokens in plan.exchange_tokens]
    samples: list[list[LinkSample]] = [[] for _ in calls]
    with connected(subject, shards, topology, nccl) as exchange, torch.inference_mode():
        for call in calls:
            call.run(exchange)  # the first answer of a shard is slow
        for _ in Rounds(own_until_s):
            for call, some in zip(calls, samples, strict=True):
                some.append(_burst(call, exchange, lambda: shards.counters(count)))
    return [_point(call, some) for call, some in zip(calls, samples, strict=True)]


class _Call:
    """One exchange with uniform random routing, over the layers in turn."""

    def __init__(self, subject: Subject, topology: Topology, num_tokens: int) -> None:
        model = subject.model
        rng = np.random.default_rng((_SEED, num_tokens))
        hidden = rng.standard_normal((num_tokens, model.hidden_size), dtype=np.float32)
        self._device = torch_device(subject.device)
        self._x = torch.from_numpy(hidden).to(DTYPES["bf16"]).to(self._device)
        self._num_layers, self._count = model.num_layers, 0
        top_k = model.num_experts_per_tok
        chosen = [np.sort(rng.permutation(model.num_experts)[:top_k]) for _ in range(num_tokens)]
        self._ids: Ints = np.array(chosen, dtype=np.int64)
        owner = np.array(
            [topology.shards.index(replicas[0]) for replicas in topology.placement.by_layer[0]]
        )
        shard_of_row = owner[self._ids]
        row_bytes = 2 * model.hidden_size
        self.bytes_by_shard = [
            float(row_bytes * ((shard_of_row == s).any(axis=1).sum() + (shard_of_row == s).sum()))
            for s in range(len(topology.shards))
        ]

    def run(self, exchange: RoutedExperts) -> None:
        """There and back."""
        self._count += 1
        exchange.start_step(self._count)
        layer = self._count % self._num_layers
        exchange.begin(layer, 0, self._x, self._ids).wait()
        synchronise(self._device)


def _burst(
    call: _Call, exchange: RoutedExperts, counters: Callable[[], list[Counters]]
) -> LinkSample:
    before = counters()
    started = time.perf_counter()
    num_calls = 0
    while num_calls < _MAX_CALLS and (not num_calls or time.perf_counter() - started < _BURST_S):
        call.run(exchange)
        num_calls += 1
    wall_s = time.perf_counter() - started
    spent = [after.since(b) for after, b in zip(counters(), before, strict=True)]
    slowest = max(spent, key=lambda counters: counters.compute_s)
    beside_s = max(slowest.cpu_s - slowest.compute_s, 0.0)
    return LinkSample(wall_s / num_calls, slowest.compute_s / num_calls, beside_s / num_calls)


def _point(call: _Call, samples: Sequence[LinkSample]) -> LinkPoint:
    return LinkPoint(
        num_messages=sum(b > 0 for b in call.bytes_by_shard),
        num_bytes=sum(call.bytes_by_shard),
        wall_s=median(s.wall_s for s in samples),
        compute_s=median(s.compute_s for s in samples),
        shard_s=median(s.shard_s for s in samples),
    )
