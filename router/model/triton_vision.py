"""The vision tower's products, norms and attention by the GPU's kernels."""

from __future__ import annotations

import torch

from router.model.device_sizes import VISION_ROWS
from router.model.vision_kernels import ImageKeys, Product
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import images
from shards.kernels.gpu import rows as kernels
from shards.kernels.gpu.linear import DeviceLinear
from shards.kernels.gpu.weights import to_device


class _DeviceKeys:
    """Implements ``ImageKeys``; rotated in float32, held and multiplied in the rows' dtype."""

    def __init__(self, keys: torch.Tensor) -> None:
        self._keys, self._values = keys, torch.empty_like(keys)

    def put(self, at: slice, keys: torch.Tensor, values: torch.Tensor) -> None:
        """See ``ImageKeys``."""
        self._keys[at], self._values[at] = keys, values

    def attend(self, q: torch.Tensor) -> torch.Tensor:
        """See ``ImageKeys``."""
        return images.attend(q.to(self._keys.dtype), self._keys, self._values)


class TritonVision:
    """Implements ``VisionKernels``."""

    block_rows = VISION_ROWS  # of one launch; no part of the arithmetic, tiles of it are fixed

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """For rows of ``dtype``."""
        self.device = device
        self._dtype = dtype

    def product(self, weight: torch.Tensor) -> Product:
        """See ``VisionKernels``."""
        held = to_device(weight, WeightFormat.BF16, self._dtype, self.device)
        linear = DeviceLinear(held, self._dtype)
        return lambda x: linear(x.contiguous())

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See ``VisionKernels``."""
        return kernels.rms_norm(x.contiguous(), weight, eps)

    def image_keys(self, num_patches: int, num_heads: int, head_dim: int) -> ImageKeys:
        """See ``VisionKernels``."""
        shape = (num_patches, num_heads, head_dim)
        return _DeviceKeys(torch.empty(shape, dtype=self._dtype, device=self.device))
