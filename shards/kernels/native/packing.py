"""Weights in the order in which the kernels read them; see ``family.h`` and the formats."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch.nn import functional

from shards.kernels.formats import GROUP, WeightFormat
from shards.kernels.quantise import int4_groups, int8_rows

COLUMNS: Final = 64  # output rows of a superblock
HALF: Final = COLUMNS // 2  # gate rows of a gate-up superblock, and as many up rows


class Packed(NamedTuple):
    """A weight ``[N, K]``, in memory of its own."""

    data: torch.Tensor  # [superblocks, bytes] uint8
    num_rows: int  # N; the last superblock is filled up with zeros
    num_inputs: int  # K
    held: WeightFormat


def pack(weight: torch.Tensor, held: WeightFormat = WeightFormat.BF16) -> Packed:
    """``[N, K]`` bf16.

    Raises:
        ValueError: Another dtype, or an odd K.
    """
    _check("weight", weight)
    n, k = weight.shape
    rows = weight.new_zeros((-(-n // COLUMNS) * COLUMNS, k))
    rows[:n] = weight
    return Packed(_superblocks(rows, held), n, k, held)


def pack_gate_up(
    gate: torch.Tensor, up: torch.Tensor, held: WeightFormat = WeightFormat.BF16
) -> Packed:
    """``[I, H]`` bf16 each; every superblock has half of its rows from both.

    Raises:
        ValueError: Another dtype, an odd H, or two shapes.
    """
    _check("gate", gate)
    _check("up", up)
    if gate.shape != up.shape:
        raise ValueError(f"up: shape {list(gate.shape)} expected, got {list(up.shape)}")
    width, k = gate.shape
    rows = gate.new_zeros((2, -(-width // HALF) * HALF, k))
    rows[0, :width], rows[1, :width] = gate, up
    halves = rows.view(2, -1, HALF, k).transpose(0, 1)
    return Packed(_superblocks(halves.reshape(-1, k), held), 2 * width, k, held)


def _superblocks(rows: torch.Tensor, held: WeightFormat) -> torch.Tensor:
    match held:
        case WeightFormat.INT8:
            return _int8_superblocks(rows)
        case WeightFormat.INT4:
            return _int4_superblocks(rows)
        case _:
            pairs = rows.view(torch.int32).view(-1, COLUMNS, rows.shape[1] // 2)
            return _bytes(pairs.transpose(1, 2))


def _int8_superblocks(rows: torch.Tensor) -> torch.Tensor:
    numbers, scales = int8_rows(functional.pad(rows, (0, -rows.shape[1] % 4)))
    sums = 128 * numbers.sum(dim=1, dtype=torch.int32)
    fours = numbers.view(-1, COLUMNS, numbers.shape[1] // 4, 4).transpose(1, 2)
    parts = (scales.view(-1, COLUMNS), sums.view(-1, COLUMNS), fours)
    return torch.cat([_bytes(part) for part in parts], dim=1)


def _int4_superblocks(rows: torch.Tensor) -> torch.Tensor:
    numbers, scales = int4_groups(rows)
    num_groups = scales.shape[1]
    # Superblock, half, column, group, eight inputs, of these the first and the last four.
    split = numbers.view(-1, 2, HALF, num_groups, GROUP // 8, 2, 4)
    nibbles = split[..., 0, :] | split[..., 1, :] << 4
    by_group = nibbles.permute(0, 3, 1, 4, 2, 5).reshape(-1, num_groups, COLUMNS * GROUP // 2)
    heads = scales.view(-1, COLUMNS, num_groups).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat([heads, by_group], dim=2).view(len(heads), -1)


def _bytes(parts: torch.Tensor) -> torch.Tensor:
    """``[superblocks, ...]`` -> ``[superblocks, bytes]``."""
    return parts.contiguous().view(len(parts), -1).view(torch.uint8)


def _check(name: str, weight: torch.Tensor) -> None:
    if weight.dim() != 2 or weight.dtype != torch.bfloat16 or weight.shape[1] % 2:
        found = f"{list(weight.shape)} {weight.dtype}"
        raise ValueError(f"{name}: a bfloat16 matrix with an even number of inputs, got {found}")
