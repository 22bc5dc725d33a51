"""Weights in the order in which the kernels read them; see ``family.h`` and the formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch.nn import functional

from shards.kernels.formats import GROUP, WeightFormat
from shards.kernels.native.arena import WEIGHTS
from shards.kernels.quantise import Stored, codes_of

COLUMNS: Final = 64  # output rows of a superblock
HALF: Final = COLUMNS // 2  # gate rows of a gate-up superblock, and as many up rows


class Packed(NamedTuple):
    """A weight ``[N, K]``, in memory of its own."""

    data: torch.Tensor  # [superblocks, bytes] uint8
    num_rows: int  # N; the last superblock is filled up with zeros
    num_inputs: int  # K
    held: WeightFormat


def pack(weight: Stored, held: WeightFormat = WeightFormat.BF16, *, stays: bool = True) -> Packed:
    """``[N, K]`` bf16, or quantised as it is to be held.

    ``stays``: in huge pages, which are given back much later.

    Raises:
        ValueError: Another dtype, or an odd K.
    """
    return _pack(_rows_of("weight", weight, held), held, _filled_up, stays=stays)


def pack_rows(weights: Sequence[Stored], held: WeightFormat = WeightFormat.BF16) -> Packed:
    """As one weight, row after row: ``[N_i, K]`` each.

    Raises:
        ValueError: As for ``pack``, or several K.
    """
    return _pack(_joined([_rows_of("weight", w, held) for w in weights]), held, _filled_up)


def pack_gate_up(gate: Stored, up: Stored, held: WeightFormat = WeightFormat.BF16) -> Packed:
    """``[I, H]`` each; every superblock has half of its rows from both.

    Raises:
        ValueError: As for ``pack``, or two shapes.
    """
    gates, ups = _rows_of("gate", gate, held), _rows_of("up", up, held)
    if gates.parts[0].shape != ups.parts[0].shape:
        shapes = list(gates.parts[0].shape), list(ups.parts[0].shape)
        raise ValueError(f"up: shape {shapes[0]} expected, got {shapes[1]}")
    return _pack(_joined([gates, ups]), held, _halves)


class _Rows(NamedTuple):
    """A weight as tensors that each have a first axis of its rows."""

    parts: tuple[torch.Tensor, ...]  # bf16 [N, K], or numbers and scales
    num_inputs: int


def _rows_of(name: str, weight: Stored, held: WeightFormat) -> _Rows:
    if isinstance(weight, torch.Tensor):
        _check(name, weight)
        if held is WeightFormat.BF16:
            return _Rows((weight,), weight.shape[1])
    codes = codes_of(weight, held)
    return _Rows((codes.numbers, codes.scales), codes.num_inputs)


def _joined(rows: Sequence[_Rows]) -> _Rows:
    parts = zip(*(r.parts for r in rows), strict=True)
    return _Rows(tuple(torch.cat(part) for part in parts), rows[0].num_inputs)


def _pack(
    rows: _Rows,
    held: WeightFormat,
    arrange: Callable[[torch.Tensor], torch.Tensor],
    *,
    stays: bool = True,
) -> Packed:
    arranged = tuple(arrange(part) for part in rows.parts)
    match held:
        case WeightFormat.INT8:
            data = _int8_superblocks(*arranged)
        case WeightFormat.INT4:
            data = _int4_superblocks(*arranged)
        case _:
            pairs = arranged[0].view(torch.int32).view(-1, COLUMNS, rows.num_inputs // 2)
            data = _bytes(pairs.transpose(1, 2))
    data = WEIGHTS.copy(data) if stays else data
    return Packed(data, len(rows.parts[0]), rows.num_inputs, held)


def _filled_up(part: torch.Tensor, multiple: int = COLUMNS) -> torch.Tensor:
    """With rows of zeros."""
    rows = part.new_zeros((-(-len(part) // multiple) * multiple, *part.shape[1:]))
    rows[: len(part)] = part
    return rows


def _halves(part: torch.Tensor) -> torch.Tensor:
    """Gate rows and up rows, half of each superblock's in turn."""
    gate, up = (_filled_up(half, HALF).view(-1, HALF, *part.shape[1:]) for half in part.chunk(2))
    return torch.stack([gate, up], dim=1).view(-1, *part.shape[1:])


def _int8_superblocks(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    numbers = functional.pad(numbers, (0, -numbers.shape[1] % 4))
    sums = 128 * numbers.sum(dim=1, dtype=torch.int32)
    fours = numbers.view(-1, COLUMNS, numbers.shape[1] // 4, 4).transpose(1, 2)
    parts = (scales.view(-1, COLUMNS), sums.view(-1, COLUMNS), fours)
    return torch.cat([_bytes(part) for part in parts], dim=1)


def _int4_superblocks(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
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
