"""A weight that multiplies rows: native where there are kernels for its dtype, else torch."""

from __future__ import annotations

import torch

from shards.kernels import row_invariant
from shards.kernels.native.library import kernels_for
from shards.kernels.native.packing import Packed, pack


class Linear:
    """``x @ weight.T``, row-invariant.

    A native weight is packed in memory of its own; else the tensor is kept as it is.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """``weight`` is ``[N, K]``."""
        self._kernels = kernels_for(weight.dtype, weight.shape[1])
        self._weight: torch.Tensor | Packed = weight if self._kernels is None else pack(weight)

    def __call__(self, x: torch.Tensor, num_rows: int) -> torch.Tensor:
        """``[T, K]`` -> ``[T, N]``; T is a multiple of ``row_invariant.TILE``.

        Rows from ``num_rows`` on are padding: torch needs them, what comes out of them is finite
        and means nothing. Computes on as many threads as torch has in the calling thread; they
        change no bit.
        """
        if isinstance(self._weight, torch.Tensor):
            return row_invariant.linear(x, self._weight)
        assert self._kernels is not None
        out = x.new_empty((x.shape[0], self._weight.num_rows))
        out[num_rows:] = 0
        self._kernels.linear(x[:num_rows], self._weight, out[:num_rows], torch.get_num_threads())
        return out
