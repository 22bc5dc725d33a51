"""Weights in the order in which the kernels read them; see ``family.h``."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

COLUMNS: Final = 64  # output rows of a superblock
HALF: Final = COLUMNS // 2  # gate rows of a gate-up superblock, and as many up rows


class Packed(NamedTuple):
    """A weight ``[N, K]``, in memory of its own."""

    data: torch.Tensor  # [superblocks, K, COLUMNS] bf16, pairs of inputs together
    num_rows: int  # N; the last superblock is filled up with zeros


def pack(weight: torch.Tensor) -> Packed:
    """``[N, K]`` bf16.

    Raises:
        ValueError: Another dtype, or an odd K.
    """
    _check("weight", weight)
    n, k = weight.shape
    rows = weight.new_zeros((-(-n // COLUMNS) * COLUMNS, k))
    rows[:n] = weight
    return Packed(_superblocks(rows), n)


def pack_gate_up(gate: torch.Tensor, up: torch.Tensor) -> Packed:
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
    return Packed(_superblocks(halves.reshape(-1, k)), 2 * width)


def _superblocks(rows: torch.Tensor) -> torch.Tensor:
    pairs = rows.view(torch.int32).view(-1, COLUMNS, rows.shape[1] // 2)
    return pairs.transpose(1, 2).contiguous().view(torch.bfloat16).view(-1, rows.shape[1], COLUMNS)


def _check(name: str, weight: torch.Tensor) -> None:
    if weight.dim() != 2 or weight.dtype != torch.bfloat16 or weight.shape[1] % 2:
        found = f"{list(weight.shape)} {weight.dtype}"
        raise ValueError(f"{name}: a bfloat16 matrix with an even number of inputs, got {found}")
