"""What computes for the vision tower: one port, for CPUs and for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch

from router.model.norm import rms_norm
from shards.kernels.kinds import CPU, Kernels, kernels_on, torch_device
from shards.kernels.row_invariant import linear, pad_rows

QUERY_BLOCK = 256  # patches; part of the arithmetic, for a product's bits may change with its rows

Product: TypeAlias = Callable[[torch.Tensor], torch.Tensor]  # [n, K] -> [n, N]


class ImageKeys(Protocol):
    """Keys and values of one image's patches in one layer."""

    def put(self, at: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Set those of some patches: both ``[n, heads, head_dim]`` float32."""
        ...

    def attend(self, q: torch.Tensor) -> torch.Tensor:
        """One block of queries ``[n, heads, head_dim]`` float32 over all patches: the same shape.

        The softmax is float32, its scale ``head_dim ** -0.5``.
        """
        ...


class VisionKernels(Protocol):
    """Rows of all results depend on their own row, or on their own image, alone."""

    @property
    def device(self) -> torch.device:
        """Where weights and rows are."""
        ...

    @property
    def block_rows(self) -> int:
        """Patches of one image that attend together, counted from its first."""
        ...

    def product(self, weight: torch.Tensor) -> Product:
        """``x @ weight.T`` for a weight ``[N, K]``, which is moved to the device."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See ``router.model.norm``; ``weight`` is on the device."""
        ...

    def image_keys(self, num_patches: int, num_heads: int, head_dim: int) -> ImageKeys:
        """Room for an image."""
        ...


class _HostKeys:
    """Implements ``ImageKeys``: whole products of torch, keys as these read them best."""

    def __init__(self, num_patches: int, num_heads: int, head_dim: int) -> None:
        self._keys = torch.empty((num_heads, head_dim, num_patches))
        self._values = torch.empty((num_heads, num_patches, head_dim))

    def put(self, at: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """See ``ImageKeys``."""
        self._keys[:, :, at] = keys.permute(1, 2, 0)
        self._values[:, at] = values.transpose(0, 1)

    def attend(self, q: torch.Tensor) -> torch.Tensor:
        """See ``ImageKeys``."""
        scores = torch.bmm(q.transpose(0, 1), self._keys) * q.shape[-1] ** -0.5
        return torch.bmm(scores.softmax(dim=-1), self._values).transpose(0, 1)


class HostVision:
    """Implements ``VisionKernels`` by torch on the CPU."""

    device = torch.device(CPU)
    block_rows = QUERY_BLOCK

    def product(self, weight: torch.Tensor) -> Product:
        """See ``VisionKernels``."""
        return lambda x: linear(pad_rows(x.contiguous()), weight)[: len(x)]

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See ``VisionKernels``."""
        return rms_norm(x, weight, eps)

    def image_keys(self, num_patches: int, num_heads: int, head_dim: int) -> ImageKeys:
        """See ``VisionKernels``."""
        return _HostKeys(num_patches, num_heads, head_dim)


def vision_kernels(dtype: torch.dtype, device: str = CPU) -> VisionKernels:
    """Those of a device, for rows of ``dtype``.

    Raises:
        ConfigError: The device is not here.
    """
    if kernels_on(device) is Kernels.HOST:
        return HostVision()
    at = torch_device(device)
    from router.model.triton_vision import TritonVision

    return TritonVision(dtype, at)
