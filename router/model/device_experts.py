"""Experts elsewhere for a gateway on a GPU: rows go through pinned memory, out and back.

Meanwhile the device computes the shared expert: it is launched between ``begin`` and ``wait``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from galerne.ids import ShardId
from router.exchange.calls import SessionCounters
from router.exchange.links import LinkState
from router.model.experts_port import PendingRows, RoutedExperts
from router.profiling import StepWatch
from shards.adapters.tokens import TokenAdapters
from shards.kernels.pinned import on_device, on_host


class _Coming:
    """Rows that will be put on the device."""

    def __init__(self, pending: PendingRows, device: torch.device) -> None:
        self._pending, self._device = pending, device

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """See ``PendingRows``; on the device, where the copy takes its place in the stream."""
        return on_device(self._pending.wait(patience_s), self._device)


class DeviceExperts:
    """Implements ``RoutedExperts`` for tensors on a device, by others that take host memory."""

    def __init__(self, inner: RoutedExperts, device: torch.device) -> None:
        self._inner, self._device = inner, device

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> PendingRows:
        """See ``RoutedExperts``."""
        pending = self._inner.begin(layer, micro_batch, on_host(x), expert_ids, adapters)
        return _Coming(pending, self._device)

    def interrupt(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.interrupt()

    def watch(self, watch: StepWatch | None) -> None:
        """See ``RoutedExperts``."""
        self._inner.watch(watch)

    def start_step(self, step: int) -> None:
        """See ``RoutedExperts``."""
        self._inner.start_step(step)

    def abandon(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.abandon()

    def poll(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.poll()

    def unreachable(self) -> list[ShardId]:
        """See ``RoutedExperts``."""
        return self._inner.unreachable()

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """See ``RoutedExperts``."""
        return self._inner.links

    @property
    def counters(self) -> SessionCounters:
        """See ``RoutedExperts``."""
        return self._inner.counters

    def close(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.close()
