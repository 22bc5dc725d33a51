"""bf16 weights to int8 and int4, and what they are then."""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import functional

from shards.kernels.formats import GROUP, WeightFormat

_SHRINK: Final = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's largest weight, tried for its scale


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[N, K]`` -> int8 ``[N, K]`` of -127 to 127 and float32 scales ``[N]``."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1).clamp_min(1e-30) / 127
    return (wide / scales[:, None]).round_().to(torch.int8), scales


def int4_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[N, K]`` -> uint8 ``[N, G, GROUP]`` of 0 to 15, 8 more than the weight, and scales.

    K is filled up with zeros. The scales, ``[N, G]`` float32, are those of ``_SHRINK`` times the
    largest weight over 7.5 with the least squared error: cutting off a few large weights may pay.
    """
    wide = functional.pad(weight.float(), (0, -weight.shape[1] % GROUP))
    groups = wide.view(len(weight), -1, GROUP)
    largest = groups.abs().amax(dim=2).clamp_min(1e-30) / 7.5
    best = torch.full_like(largest, torch.inf)
    scales, numbers = largest.clone(), torch.zeros_like(groups)
    for shrink in _SHRINK:
        scale = largest * shrink
        rounded = (groups / scale[..., None]).round_().clamp_(-8, 7)
        error = (rounded * scale[..., None] - groups).square_().sum(dim=2)
        is_better = error < best
        best = torch.where(is_better, error, best)
        scales = torch.where(is_better, scale, scales)
        numbers = torch.where(is_better[..., None], rounded, numbers)
    return (numbers + 8).to(torch.uint8), scales


def rounded(weight: torch.Tensor, held: WeightFormat) -> torch.Tensor:
    """What a ``[N, K]`` weight is once it is held so, in its own dtype."""
    match held:
        case WeightFormat.INT8:
            numbers, scales = int8_rows(weight)
            return (numbers.float() * scales[:, None]).to(weight.dtype)
        case WeightFormat.INT4:
            numbers, scales = int4_groups(weight)
            wide = (numbers.float() - 8) * scales[..., None]
            return wide.reshape(len(weight), -1)[:, : weight.shape[1]].to(weight.dtype)
        case _:
            return weight
