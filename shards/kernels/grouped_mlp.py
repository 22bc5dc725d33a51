"""Grouped expert MLP in plain torch.

For float32, for machines without native kernels, and as the reference of the native ones. Rows
depend on the row and the weights alone, as ``row_invariant`` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from shards.kernels.expert_changes import ChangedRows
from shards.kernels.low_rank import add_low_rank
from shards.kernels.row_invariant import linear, padded_rows
from shards.kernels.threads import ONE_THREAD, KernelThreads


class _Job:
    """Padded inputs and outputs of one call, computed group by group."""

    def __init__(
        self,
        tokens: torch.Tensor,
        starts: Sequence[int],
        gate_up: Sequence[torch.Tensor],
        down: Sequence[torch.Tensor],
        changes: Sequence[Sequence[ChangedRows]] | None,
    ) -> None:
        self.tokens = tokens  # [P, H], each group at a multiple of TILE
        self._changes = changes
        self.result = torch.empty_like(tokens)
        self.down = down
        self._starts = starts
        self._gate_up = gate_up

    @torch.inference_mode()
    def run(self, groups: Sequence[int]) -> None:
        for group in groups:
            rows = slice(self._starts[group], self._starts[group + 1])
            x, changes = self.tokens[rows], self._changes[group] if self._changes else ()
            gate, up = linear(x, self._gate_up[group]).float().chunk(2, dim=-1)
            for changed in changes:
                add_low_rank(gate, x, changed.change.gate, changed.rows)
                add_low_rank(up, x, changed.change.up, changed.rows)
            active = functional.silu(gate).mul_(up).to(self.tokens.dtype)
            result = linear(active, self.down[group], out=self.result[rows])
            for changed in changes:
                add_low_rank(result, active, changed.change.down, changed.rows)


def grouped_mlp(
    x: torch.Tensor,
    row_token: npt.NDArray[np.int64],
    num_rows_by_group: Sequence[int],
    gate_up: Sequence[torch.Tensor],
    down: Sequence[torch.Tensor],
    threads: KernelThreads = ONE_THREAD,
    changes: Sequence[Sequence[ChangedRows]] | None = None,
) -> torch.Tensor:
    """``down_g(silu(gate_g(x)) * up_g(x))`` for every row of every group g.

    Shapes: T = tokens, R = rows, G = groups (experts touched), H = hidden, I = expert width.

    Args:
        x: ``[T, H]`` the tokens, each once.
        row_token: ``[R]`` the token of every row, group after group.
        num_rows_by_group: G counts that sum to R.
        gate_up: G weights ``[2I, H]``, gate rows first, dtype of ``x``.
        down: G weights ``[H, I]``.
        threads: Who computes; changes no bit.
        changes: Of every group, what adapters change of some of its rows.

    Returns:
        ``[R, H]`` in the order of ``row_token``, dtype of ``x``.

    Source: model reference, section 2, step 11. The activation is computed in float32 and
    rounded once.
    """
    starts, padded_row = _padded_layout(num_rows_by_group)
    gather = np.zeros(starts[-1], dtype=np.int64)  # padding rows compute token 0 and are dropped
    gather[padded_row] = row_token
    job = _Job(x[torch.from_numpy(gather)], starts, gate_up, down, changes)
    threads.run(job.run, len(down))
    return job.result[torch.from_numpy(padded_row)]


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
