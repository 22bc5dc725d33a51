"""A weight that multiplies rows: native where there are kernels for its dtype, else torch."""

from __future__ import annotations

import torch

from shards.kernels import row_invariant
from shards.kernels.formats import WeightFormat
from shards.kernels.native.library import kernels_for
from shards.kernels.native.packing import Packed, pack
from shards.kernels.quantise import Stored, rounded


class Linear:
    """``x @ weight.T`` in float32, row-invariant.

    A native weight is packed in memory of its own; else the tensor is kept as it is.
    """

    def __init__(
        self, weight: Stored, num_threads: int, held: WeightFormat = WeightFormat.BF16
    ) -> None:
        """``weight`` is ``[N, K]``; if it is quantised, as it is ``held``.

        ``num_threads`` compute in native kernels and change no bit.
        """
        self._num_threads = num_threads
        self._kernels = kernels_for(
            weight.dtype if isinstance(weight, torch.Tensor) else torch.bfloat16, weight.shape[1]
        )
        self._weight: torch.Tensor | Packed = (
            rounded(weight, held) if self._kernels is None else pack(weight, held)
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[T, K]`` -> ``[T, N]`` float32; torch rounds to the weight's dtype in between."""
        if isinstance(self._weight, torch.Tensor):
            return row_invariant.linear(row_invariant.pad_rows(x), self._weight)[: len(x)].float()
        assert self._kernels is not None
        out = torch.empty((len(x), self._weight.num_rows))
        self._kernels.linear(x, self._weight, out, self._num_threads)
        return out
