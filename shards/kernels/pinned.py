"""Copies between a GPU and this host, through pinned memory: at the bus's speed, in the stream."""

from __future__ import annotations

import torch

from shards.kernels.kinds import CUDA


def on_host(x: torch.Tensor) -> torch.Tensor:
    """``x`` in the host's memory, complete: waits for the device's stream. On the host itself."""
    if x.device.type != CUDA:
        return x
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return host


def on_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` on the device, once its stream has come so far. Itself if it is there."""
    if x.device.type == device.type:
        return x
    return x.pin_memory().to(device, non_blocking=True)
