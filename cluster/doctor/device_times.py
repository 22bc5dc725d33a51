"""Times of what a device computes: launches return at once, so clocks are read when it has done.

Where experts are on the device too, all layers of a decode step are one recorded graph. Its experts
are recorded alone besides, with the step's own routing, and their time is taken off the whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cluster.doctor.gpu import synchronise
from cluster.doctor.steps import StepSample
from router.exchange.dispatch import Ints
from router.exchange.local import LocalExperts
from router.model.runner import PagedRunner
from router.profiling import LayerTimer
from shards.kernels.gpu.graphs import recorded
from shards.kernels.kinds import CUDA

if TYPE_CHECKING:  # Triton need not be there where nothing computes on a GPU
    from shards.kernels.gpu.experts import TritonExperts

_LEAST_SHARE = 0.05  # of all layers' time that is not routed experts
_SEED = 11


class SyncedTimer(LayerTimer):
    """A part ends when the device has done it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """See ``LayerTimer``."""
        with super().part(name):
            yield
            synchronise(self._device)


class ExpertRuns:
    """Routed experts of all layers on a device, one after the other, for one step's routing."""

    def __init__(
        self,
        experts: Sequence[TritonExperts],
        routing: Sequence[Ints],
        hidden_size: int,
        *,
        records: bool,
    ) -> None:
        """``routing``: ``[T, K]`` ids of every layer. Rows are random; values cost no time.

        ``records``: as one graph, as decode steps are; else launch by launch.
        """
        self._device = experts[0].device
        generator = torch.Generator().manual_seed(_SEED)
        rows = torch.randn((len(routing[0]), hidden_size), generator=generator)
        self._x = rows.to(torch.bfloat16).to(self._device)
        ids = [torch.from_numpy(each).to(torch.int32).to(self._device) for each in routing]
        self._work = list(zip(experts, ids, strict=True))
        self._recorded: tuple[torch.cuda.CUDAGraph, list[torch.Tensor]] | None = None
        if records:
            self._recorded = recorded(self._launch, self._device)
        else:
            self._launch()  # what the first run allocates, the second finds

    def seconds(self) -> float:
        """Of all layers, once."""
        synchronise(self._device)
        started = time.perf_counter()
        if self._recorded is None:
            self._launch()
        else:
            self._recorded[0].replay()
        synchronise(self._device)
        return time.perf_counter() - started

    def _launch(self) -> list[torch.Tensor]:
        return [experts.run_routed(self._x, ids) for experts, ids in self._work]


def expert_runs_of(
    runner: PagedRunner, num_layers: int, routings: Sequence[Sequence[Ints]], hidden_size: int
) -> list[ExpertRuns] | None:
    """For steps with these routings; None: the runner's layers and experts are not on a device."""
    if not isinstance(runner.timer, SyncedTimer) or not isinstance(runner.exchange, LocalExperts):
        return None
    from router.model.triton_layers import experts_on_device

    experts = experts_on_device(runner.exchange.bank, num_layers)
    if experts is None:
        return None
    records = experts[0].device.type == CUDA
    return [ExpertRuns(experts, routing, hidden_size, records=records) for routing in routings]


def without_experts(sample: StepSample, experts_s: float) -> StepSample:
    """A sample whose layers hold their experts, as two parts. Pure."""
    rest_s = max(sample.loop_s - experts_s, _LEAST_SHARE * sample.loop_s)
    return sample._replace(loop_s=rest_s, layers_s=rest_s, experts_s=sample.loop_s - rest_s)
