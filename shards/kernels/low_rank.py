"""Low-rank changes in torch: for float32, and as the reference of the native ones."""

from __future__ import annotations

import torch

from shards.adapters.low_rank import LowRank
from shards.kernels.row_invariant import linear, pad_rows


def low_rank(x: torch.Tensor, change: LowRank) -> torch.Tensor:
    """``scale · up · down · x`` in float32: ``[T, K]`` -> ``[T, N]``, row-invariant."""
    hidden = linear(pad_rows(x.float()), change.down.float().contiguous()) * change.scale
    return linear(hidden, change.up.float().contiguous())[: len(x)]


def add_low_rank(
    y: torch.Tensor, x: torch.Tensor, change: LowRank | None, rows: torch.Tensor
) -> None:
    """Add a change of ``x`` ``[T, K]`` to some rows of ``y`` ``[T, N]``, in place, rounded once.

    ``rows`` are indices; None changes nothing.
    """
    if change is not None:
        y[rows] = (y[rows].float() + low_rank(x[rows], change)).to(y.dtype)
