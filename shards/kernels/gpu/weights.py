"""Weights as GPU kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from shards.kernels.formats import GROUP, WeightFormat
from shards.kernels.quantise import Codes, Stored, codes_of, wide

# Numbers of ``code/tile.py``.
_FORMS = {WeightFormat.BF16: 0, WeightFormat.FP8: 1, WeightFormat.INT8: 2, WeightFormat.INT4: 3}


class DeviceWeight(NamedTuple):
    """A weight ``[N, K]`` on its device.

    ``data``: wide ``[N, K]`` in the rows' dtype; fp8 and int8 ``[N, K]`` bytes; int4
    ``[N, G * 32]`` bytes, of a group's 64 inputs the first half in the low halves. ``scales``
    float32: None, ``[N]``, or ``[N, G]`` for int4.
    """

    data: torch.Tensor
    scales: torch.Tensor | None
    held: WeightFormat
    num_inputs: int

    @property
    def form(self) -> int:
        """As the device code counts formats."""
        return _FORMS[self.held]

    @property
    def num_outputs(self) -> int:
        """N."""
        return len(self.data)

    @property
    def scale_address(self) -> int:
        """Of the scales; 0 where there are none."""
        return 0 if self.scales is None else self.scales.data_ptr()

    @property
    def num_bytes(self) -> int:
        """Of both."""
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


def to_device(
    weight: Stored, held: WeightFormat, dtype: torch.dtype, device: torch.device
) -> DeviceWeight:
    """A weight for rows of ``dtype``: fp8 codes stay, else as it is ``held``.

    Raises:
        ValueError: It is quantised already, otherwise.
    """
    if isinstance(weight, torch.Tensor) and held is WeightFormat.BF16:
        data = weight.to(dtype).contiguous().to(device)
        return DeviceWeight(data, None, WeightFormat.BF16, weight.shape[1])
    is_fp8 = isinstance(weight, Codes) and weight.held is WeightFormat.FP8
    codes = codes_of(weight, WeightFormat.FP8 if is_fp8 else held)
    data = _halves(codes.numbers) if codes.held is WeightFormat.INT4 else codes.numbers
    data = data.contiguous().view(torch.uint8).to(device)
    scales = codes.scales.float().contiguous().to(device)
    return DeviceWeight(data, scales, codes.held, codes.num_inputs)


def _halves(numbers: torch.Tensor) -> torch.Tensor:
    """``[N, G, GROUP]`` of 0 to 15 -> ``[N, G * GROUP / 2]`` bytes."""
    low, high = numbers[..., : GROUP // 2], numbers[..., GROUP // 2 :]
    return (low | high << 4).flatten(1)


def stacked(weights: Sequence[Stored], dtype: torch.dtype) -> Stored:
    """Weights that read the same rows as one, outputs after one another.

    Where their formats differ, all are widened to ``dtype``.
    """
    codes = [w for w in weights if isinstance(w, Codes)]
    if len(codes) == len(weights) and len({c.held for c in codes}) == 1:
        numbers = torch.cat([c.numbers.view(torch.uint8) for c in codes])
        scales = torch.cat([c.scales for c in codes])
        first = codes[0]
        return first._replace(numbers=numbers.view(first.numbers.dtype), scales=scales)
    return torch.cat([(wide(w) if isinstance(w, Codes) else w).to(dtype) for w in weights])


def wide_on_device(weight: DeviceWeight) -> torch.Tensor:
    """``[N, K]`` float32 that a weight stands for: for references."""
    if weight.held is WeightFormat.BF16:
        return weight.data.float()
    assert weight.scales is not None
    if weight.held is WeightFormat.INT4:
        groups = weight.data.view(weight.num_outputs, -1, GROUP // 2)
        numbers = torch.cat([groups & 15, groups >> 4], dim=-1).float() - 8
        return (numbers * weight.scales[..., None]).flatten(1)[:, : weight.num_inputs]
    dtype = torch.float8_e4m3fn if weight.held is WeightFormat.FP8 else torch.int8
    return weight.data.view(dtype).float() * weight.scales[:, None]
