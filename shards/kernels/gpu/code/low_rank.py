"""What adapters change of a product: tiles of rows of one change each, in two small products.

A table says where a change lies: ``[n, 3]`` int64 of the address of its first matrix, of its second
one, and of its rank, a multiple of 16; an address 0 changes nothing. A row walks its own change's
inputs and ranks in one order, so its bits depend on the row and its adapter alone; rows that are in
no tile are not touched.
"""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import WIDE, narrow, product, rows_times


@triton.jit
def reduce(
    x,
    x_stride,
    x_member,
    row_in,
    factors,
    table,
    scales,
    tiles,
    hidden,
    hidden_stride,
    K: tl.constexpr,
    IS_SHARED: tl.constexpr,
    HAS_FACTORS: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: ranks, 1: rows, 2: member): ``hidden = scale (first x)``, rows in their order."""
    tile, member = tl.program_id(1), tl.program_id(2)
    number = tl.load(tiles + tile * 3)
    if number >= 0:
        rank = tl.load(table + number * 3 + 2).to(tl.int32)
        if tl.program_id(0) * BR < rank:
            n = tl.program_id(0) * BR + tl.arange(0, BR)
            first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
            rows = first + tl.arange(0, BT)
            is_row = rows < end
            source = tl.load(row_in + rows, mask=is_row, other=0).to(tl.int64)
            w = tl.load(table + number * 3).to(tl.pointer_type(x.dtype.element_ty))
            w = tl.multiple_of(w, 16)
            if not IS_SHARED:
                w += member * rank * K
            acc = rows_times(
                x + member * x_member,
                source * x_stride,
                is_row,
                w,
                w,
                n,
                n < rank,
                0,
                K,
                K,
                BR,
                BT,
                BK,
                WIDE,
                UPCAST,
            )
            acc = acc * tl.load(scales + number)
            if HAS_FACTORS:
                acc = acc * tl.load(factors + source, mask=is_row, other=0.0)[None, :]
            to = (rows.to(tl.int64) * tl.num_programs(2) + member) * hidden_stride
            mask = (n < rank)[:, None] & is_row[None, :]
            tl.store(hidden + to[None, :] + n[:, None], acc, mask=mask)


@triton.jit
def expand(
    hidden,
    hidden_stride,
    table,
    tiles,
    row_out,
    y,
    y_stride,
    y_member,
    LIKE: tl.constexpr,
    N: tl.constexpr,
    IS_SHARED: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: outputs, 1: rows, 2: member): ``y += second hidden``, float32, rounded once."""
    tile, member = tl.program_id(1), tl.program_id(2)
    number = tl.load(tiles + tile * 3)
    if number >= 0:
        rank = tl.load(table + number * 3 + 2).to(tl.int32)
        if rank > 0:
            first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
            rows = first + tl.arange(0, BT)
            n = tl.program_id(0) * BN + tl.arange(0, BN)
            is_row, is_out = rows < end, n < N
            w = tl.load(table + number * 3 + 1).to(tl.pointer_type(LIKE))
            w = tl.multiple_of(w, 16)
            if not IS_SHARED:
                w += member * rank * N
            at = (rows.to(tl.int64) * tl.num_programs(2) + member) * hidden_stride
            ks = tl.arange(0, BR)
            acc = tl.zeros((BN, BT), tl.float32)
            for k0 in range(0, rank, BR):
                k = ks + k0
                inputs = tl.load(hidden + at[None, :] + k[:, None], mask=is_row[None, :], other=0.0)
                ups = tl.load(w + n[:, None] * rank + k[None, :], mask=is_out[:, None], other=0.0)
                acc = product(ups, inputs, acc, True)
            places = tl.load(row_out + rows, mask=is_row, other=0).to(tl.int64)
            to = y + member * y_member + places[None, :] * y_stride + n[:, None]
            mask = is_out[:, None] & is_row[None, :]
            before = tl.load(to, mask=mask, other=0.0).to(tl.float32)
            stored = narrow(before + acc, y.dtype.element_ty, UPCAST)
            tl.store(to, stored, mask=mask)
