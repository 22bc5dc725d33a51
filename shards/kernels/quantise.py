"""bf16 weights to int8 and int4, and what they are then."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import torch
from torch.nn import functional

from shards.kernels.formats import GROUP, WeightFormat

_ROWS_AT_ONCE: Final = 8192  # of float32 copies; rows do not know one another
_SHRINK: Final = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's largest weight, tried for its scale


class Codes(NamedTuple):
    """A quantised weight ``[N, K]``. Rows are quantised each for itself."""

    # int8: [N, K] int8; int4: [N, G, GROUP] uint8, 0 to 15, 8 too many; fp8: [N, K] float8_e4m3fn
    numbers: torch.Tensor
    scales: torch.Tensor  # float32; int8 and fp8: [N]; int4: [N, G]
    num_inputs: int  # K; int4 is filled up with zeros to G * GROUP
    held: WeightFormat

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.numbers), self.num_inputs


Stored: TypeAlias = (
    torch.Tensor | Codes
)  # a weight as a checkpoint hands it out: wide, or quantised


def codes_of(weight: Stored, held: WeightFormat) -> Codes:
    """``[N, K]`` quantised; ``held`` is not bf16.

    Raises:
        ValueError: It is quantised already, otherwise.
    """
    if isinstance(weight, Codes):
        if weight.held is not held:
            raise ValueError(f"weight: {held.label} expected, got {weight.held.label}")
        return weight
    quantise = int8_rows if held is WeightFormat.INT8 else int4_groups
    parts = zip(*map(quantise, torch.split(weight, _ROWS_AT_ONCE)), strict=True)
    numbers, scales = (torch.cat(part) for part in parts)
    return Codes(numbers, scales, weight.shape[1], held)


def wide(codes: Codes) -> torch.Tensor:
    """``[N, K]`` float32: what the codes stand for."""
    if codes.held is not WeightFormat.INT4:
        return codes.numbers.float() * codes.scales[:, None]
    values = (codes.numbers.float() - 8) * codes.scales[..., None]
    return values.reshape(len(values), -1)[:, : codes.num_inputs]


def rounded(weight: Stored, held: WeightFormat) -> torch.Tensor:
    """What a ``[N, K]`` weight is once it is held so, in its own dtype (bf16 if quantised)."""
    if isinstance(weight, torch.Tensor) and held is WeightFormat.BF16:
        return weight
    dtype = weight.dtype if isinstance(weight, torch.Tensor) else torch.bfloat16
    return wide(codes_of(weight, held)).to(dtype)


def with_inputs(weight: Stored, num_inputs: int) -> Stored:
    """``[N, K]`` filled up to ``[N, num_inputs]`` with zeros; within the last group if int4."""
    missing = num_inputs - weight.shape[1]
    if isinstance(weight, torch.Tensor):
        return functional.pad(weight, (0, missing))
    if weight.held is WeightFormat.INT8:
        numbers = functional.pad(weight.numbers, (0, missing))
        return weight._replace(numbers=numbers, num_inputs=num_inputs)
    return weight._replace(num_inputs=num_inputs)


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[N, K]`` -> int8 ``[N, K]`` of -127 to 127 and float32 scales ``[N]``."""
    rows = weight.float()
    scales = rows.abs().amax(dim=1).clamp_min(1e-30) / 127
    return (rows / scales[:, None]).round_().to(torch.int8), scales


def int4_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[N, K]`` -> uint8 ``[N, G, GROUP]`` of 0 to 15, 8 more than the weight, and scales.

    K is filled up with zeros. The scales, ``[N, G]`` float32, are those of ``_SHRINK`` times the
    largest weight over 7.5 with the least squared error: cutting off a few large weights may pay.
    """
    rows = functional.pad(weight.float(), (0, -weight.shape[1] % GROUP))
    groups = rows.view(len(weight), -1, GROUP)
    largest = groups.abs().amax(dim=2).clamp_min(1e-30) / 7.5
    best = torch.full_like(largest, torch.inf)
    scales, numbers = largest.clone(), torch.zeros_like(groups)
    for shrink in _SHRINK:
        scale = largest * shrink
        tried = (groups / scale[..., None]).round_().clamp_(-8, 7)
        error = (tried * scale[..., None] - groups).square_().sum(dim=2)
        is_better = error < best
        best = torch.where(is_better, error, best)
        scales = torch.where(is_better, scale, scales)
        numbers = torch.where(is_better[..., None], tried, numbers)
    return (numbers + 8).to(torch.uint8), scales


def packed_nibbles(numbers: torch.Tensor) -> torch.Tensor:
    """``[..., GROUP]`` of 0 to 15 -> ``[..., GROUP / 2]`` bytes, even numbers in the low halves."""
    return numbers[..., 0::2] | numbers[..., 1::2] << 4


def unpacked_nibbles(stored: torch.Tensor) -> torch.Tensor:
    """Undoes ``packed_nibbles``."""
    return torch.stack([stored & 15, stored >> 4], dim=-1).flatten(-2)
