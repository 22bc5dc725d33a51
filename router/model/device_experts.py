"""Experts elsewhere for a gateway on a GPU: rows go through pinned memory, out and back.

Meanwhile the device computes the shared expert: it is launched between ``begin`` and ``wait``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from router.model.experts_port import PassingExperts, PendingRows, RoutedExperts
from shards.adapters.tokens import TokenAdapters
from shards.kernels.pinned import on_device, on_host


class _Coming:
    """Rows that will be put on the device."""

    def __init__(self, pending: PendingRows, device: torch.device) -> None:
        self._pending, self._device = pending, device

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """See ``PendingRows``; on the device, where the copy takes its place in the stream."""
        return on_device(self._pending.wait(patience_s), self._device)


class DeviceExperts(PassingExperts):
    """Experts that take host memory, for tensors on a device."""

    def __init__(self, inner: RoutedExperts, device: torch.device) -> None:
        super().__init__(inner)
        self._device = device

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> PendingRows:
        """See ``RoutedExperts``."""
        pending = super().begin(layer, micro_batch, on_host(x), expert_ids, adapters)
        return _Coming(pending, self._device)
