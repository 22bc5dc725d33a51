"""Changes of products by adapters: rows grouped by adapter, and small products for each group."""

from __future__ import annotations

from typing import Final

import torch
import triton.language as tl
from torch.nn import functional

from shards.adapters.low_rank import LowRank
from shards.kernels.gpu.code import low_rank as code
from shards.kernels.gpu.grouped import Layout
from shards.kernels.gpu.launch import NO_FUSION, upcasts

ROWS: Final = 16  # of a tile: layouts of changes are cut so, whatever their number of rows
_RANKS: Final = 16  # ranks are filled up with zeros to a multiple of it
_INPUTS: Final = 128
_OUTPUTS: Final = 64
_NUM_WARPS: Final = 4
_DTYPES: Final = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


class ChangeTable:
    """Low-rank changes of one product, by number, where kernels find them.

    A change is two matrices, ``y += scale * second (first x)``, of all members of a batch (heads),
    or of each its own. Its numbers are held in the rows' dtype; what it adds is float32.
    """

    def __init__(
        self,
        num_changes: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        first_of_each: bool = False,
        second_of_each: bool = False,
    ) -> None:
        """Numbers are below ``num_changes``. ``..._of_each``: every member has a matrix."""
        self._dtype = dtype
        self._of_each = first_of_each, second_of_each
        self._places = torch.zeros((num_changes, 3), dtype=torch.int64, device=device)
        self._scales = torch.zeros(num_changes, device=device)
        self._held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.max_rank = 0  # the largest there ever was, so that what is recorded stays right

    def put(self, number: int, first: torch.Tensor, second: torch.Tensor, scale: float) -> None:
        """Set one.

        Args:
            number: Which.
            first: ``[members or 1, rank, K]``.
            second: ``[members or 1, N, rank]``.
            scale: Of the change.
        """
        missing = -first.shape[1] % _RANKS
        padded = functional.pad(first, (0, 0, 0, missing)), functional.pad(second, (0, missing))
        device = self._places.device
        one, other = (part.to(self._dtype).contiguous().to(device) for part in padded)
        self._held[number] = one, other
        place = [one.data_ptr(), other.data_ptr(), one.shape[1]]
        self._places[number] = torch.tensor(place).to(device)
        self._scales[number] = scale
        self.max_rank = max(self.max_rank, one.shape[1])

    def put_low_rank(self, number: int, change: LowRank | None) -> None:
        """Set that of a weight without members; None: nothing is changed."""
        if change is not None:
            self.put(number, change.down[None], change.up[None], change.scale)

    def remove(self, number: int) -> None:
        """Forget one, if it is there. Nobody computes meanwhile."""
        if self._held.pop(number, None) is not None:
            self._places[number] = 0

    @property
    def num_bytes(self) -> int:
        """Of all changes."""
        return sum(part.nbytes for pair in list(self._held.values()) for part in pair)

    def add(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        layout: Layout,
        factors: torch.Tensor | None = None,
    ) -> None:
        """Add the changes of some rows to their products, in place.

        Args:
            y: ``[rows, members, N]``, rows of any stride, of the table's dtype or float32.
            x: ``[rows, members, K]`` of the table's dtype.
            layout: Which row of ``x`` is changed, where it is in ``y``, tiles of ``ROWS`` rows by
                number. Rows in no tile are not touched.
            factors: ``[rows of x]`` float32 that changes are multiplied by besides; None: 1.
        """
        max_rank, members = self.max_rank, x.shape[1]
        if not max_rank:
            return
        row_in, row_out, tiles = layout
        hidden = x.new_empty((len(row_in), members, max_rank), dtype=torch.float32)
        first_of_each, second_of_each = self._of_each
        shared = {"num_warps": _NUM_WARPS, **NO_FUSION}
        code.reduce[(-(-max_rank // _RANKS), len(tiles), members)](
            *(x, x.stride(0), x.stride(1), row_in, self._scales if factors is None else factors),
            *(self._places, self._scales, tiles, hidden, max_rank),
            K=x.shape[2],
            IS_SHARED=not first_of_each,
            HAS_FACTORS=factors is not None,
            BR=_RANKS,
            BT=ROWS,
            BK=_INPUTS,
            UPCAST=upcasts(x.dtype),
            **shared,
        )
        code.expand[(-(-y.shape[2] // _OUTPUTS), len(tiles), members)](
            *(hidden, max_rank, self._places, tiles, row_out, y, y.stride(0), y.stride(1)),
            LIKE=_DTYPES[self._dtype],
            N=y.shape[2],
            IS_SHARED=not second_of_each,
            BN=_OUTPUTS,
            BR=_RANKS,
            BT=ROWS,
            UPCAST=upcasts(self._dtype),
            **shared,
        )


def reference(x: torch.Tensor, change: LowRank) -> torch.Tensor:
    """``[T, N]`` float32: what a change adds to rows ``[T, K]``."""
    wide = x.float() @ change.down.to(x.device, x.dtype).float().T
    return wide @ change.up.to(x.device, x.dtype).float().T * change.scale
