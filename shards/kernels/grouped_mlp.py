"""Grouped expert MLP in plain torch: the one place where expert kernels are chosen.

A faster kernel takes this function's place; it must give rows that depend on the row and the
weights alone, as ``row_invariant`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from shards.kernels.row_invariant import linear, padded_rows


class KernelThreads:
    """Threads that each compute whole experts with one torch thread.

    Measured at 16 rows: two threads with an expert each take half the time of two torch threads on
    one expert, which must meet after every product, and do not suffer when a core is busy.
    """

    def __init__(self, num_threads: int) -> None:
        """One thread is the caller's own."""
        self.num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        if num_threads > 1:
            self._pool = ThreadPoolExecutor(
                num_threads, "expert-kernel", initializer=torch.set_num_threads, initargs=(1,)
            )

    def run(self, job: _Job) -> None:
        """Compute all groups of a job, in parallel where that helps nobody to wait."""
        if self._pool is None or len(job.down) < 2:
            job.run(range(len(job.down)))
            return
        parts = np.array_split(np.arange(len(job.down)), min(self.num_threads, len(job.down)))
        futures = [self._pool.submit(job.run, part.tolist()) for part in parts]
        for future in futures:
            future.result()


class _Job:
    """Padded inputs and outputs of one call, computed group by group."""

    def __init__(
        self,
        tokens: torch.Tensor,
        starts: Sequence[int],
        gate_up: Sequence[torch.Tensor],
        down: Sequence[torch.Tensor],
    ) -> None:
        self.tokens = tokens  # [P, H], each group at a multiple of TILE
        self.result = torch.empty_like(tokens)
        self.down = down
        self._starts = starts
        self._gate_up = gate_up

    @torch.inference_mode()
    def run(self, groups: Sequence[int]) -> None:
        for group in groups:
            rows = slice(self._starts[group], self._starts[group + 1])
            gate, up = linear(self.tokens[rows], self._gate_up[group]).float().chunk(2, dim=-1)
            active = functional.silu(gate).mul_(up).to(self.tokens.dtype)
            linear(active, self.down[group], out=self.result[rows])


ONE_THREAD = KernelThreads(1)


def grouped_mlp(
    x: torch.Tensor,
    row_token: npt.NDArray[np.int64],
    num_rows_by_group: Sequence[int],
    gate_up: Sequence[torch.Tensor],
    down: Sequence[torch.Tensor],
    threads: KernelThreads = ONE_THREAD,
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

    Returns:
        ``[R, H]`` in the order of ``row_token``, dtype of ``x``.

    Source: model reference, section 2, step 11. The activation is computed in float32 and
    rounded once.
    """
    starts, padded_row = _padded_layout(num_rows_by_group)
    gather = np.zeros(starts[-1], dtype=np.int64)  # padding rows compute token 0 and are dropped
    gather[padded_row] = row_token
    job = _Job(x[torch.from_numpy(gather)], starts, gate_up, down)
    threads.run(job)
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
