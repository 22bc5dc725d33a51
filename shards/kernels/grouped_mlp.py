"""Grouped expert MLP in plain torch: the one place where expert kernels are chosen.

A faster kernel takes this function's place; it must give rows that depend on the row and the
weights alone, as ``row_invariant`` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from shards.kernels.row_invariant import linear, padded_rows


def grouped_mlp(
    x: torch.Tensor,
    row_token: npt.NDArray[np.int64],
    num_rows_by_group: Sequence[int],
    gate_up: Sequence[torch.Tensor],
    down: Sequence[torch.Tensor],
) -> torch.Tensor:
    """``down_g(silu(gate_g(x)) * up_g(x))`` for every row of every group g.

    Shapes: T = tokens, R = rows, G = groups (experts touched), H = hidden, I = expert width.

    Args:
        x: ``[T, H]`` the tokens, each once.
        row_token: ``[R]`` the token of every row, group after group.
        num_rows_by_group: G counts that sum to R.
        gate_up: G weights ``[2I, H]``, gate rows first, dtype of ``x``.
        down: G weights ``[H, I]``.

    Returns:
        ``[R, H]`` in the order of ``row_token``, dtype of ``x``.

    Source: model reference, section 2, step 11. The activation is computed in float32 and
    rounded once.
    """
    starts, padded_row = _padded_layout(num_rows_by_group)
    total = starts[-1]
    hidden, width = x.shape[1], down[0].shape[1]
    gather = np.zeros(total, dtype=np.int64)  # padding rows compute token 0 and are dropped
    gather[padded_row] = row_token
    tokens = x[torch.from_numpy(gather)]  # [P, H], each group at a multiple of TILE
    both = x.new_empty((total, 2 * width))
    for group, weight in enumerate(gate_up):
        rows = slice(starts[group], starts[group + 1])
        linear(tokens[rows], weight, out=both[rows])
    active = functional.silu(both[:, :width].float()).mul_(both[:, width:]).to(x.dtype)
    result = x.new_empty((total, hidden))
    for group, weight in enumerate(down):
        rows = slice(starts[group], starts[group + 1])
        linear(active[rows], weight, out=result[rows])
    return result[torch.from_numpy(padded_row)]


def _padded_layout(
    num_rows_by_group: Sequence[int],
) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Start of every padded group (one more than groups), and the padded place of every row."""
    starts = [0]
    places = []
    for count in num_rows_by_group:
        places.append(np.arange(starts[-1], starts[-1] + count))
        starts.append(starts[-1] + padded_rows(count))
    return starts, np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
