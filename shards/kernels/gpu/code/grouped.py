"""Experts: tiles of rows of one expert each. A table of addresses says where its weights lie."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import WIDE, narrow, rows_times


@triton.jit
def weight_at(table, expert, LIKE: tl.constexpr, FORMAT: tl.constexpr):
    """Pointer to an expert's weight: numbers of type LIKE, or bytes."""
    if FORMAT == WIDE:
        at = tl.load(table + expert).to(tl.pointer_type(LIKE))
    else:
        at = tl.load(table + expert).to(tl.pointer_type(tl.uint8))
    return tl.multiple_of(at, 16)


@triton.jit
def scales_at(table, expert):
    """Pointer to its scales; of a weight without them 0, never read."""
    return tl.load(table + expert).to(tl.pointer_type(tl.float32))


@triton.jit
def gate_up_rows(
    x,
    x_stride,
    w,
    s,
    row_token,
    active,
    first,
    end,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Rows ``first`` to ``end``, at most BT: outputs of gate and up are one tile of 2 BN."""
    rows = first + tl.arange(0, BT)
    is_row = rows < end
    tokens = tl.load(row_token + rows, mask=is_row, other=0)
    both = tl.arange(0, 2 * BN)
    of_either = tl.program_id(0) * BN + both % BN
    sums = rows_times(
        x,
        tokens.to(tl.int64) * x_stride,
        is_row,
        w,
        s,
        of_either + both // BN * WIDTH,
        of_either < WIDTH,
        0,
        HIDDEN,
        HIDDEN,
        2 * BN,
        BT,
        BK,
        FORMAT,
        UPCAST,
    )
    gate, up = tl.split(tl.permute(tl.reshape(sums, (2, BN, BT)), (1, 2, 0)))
    result = gate / (1.0 + tl.exp(-gate)) * up
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    at = active + rows.to(tl.int64)[None, :] * WIDTH + n[:, None]
    stored = narrow(result, active.dtype.element_ty, UPCAST)
    tl.store(at, stored, mask=(n < WIDTH)[:, None] & is_row[None, :])


@triton.jit
def gate_up(
    x,
    x_stride,
    weights,
    scales,
    tiles,
    row_token,
    active,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    REST: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: outputs, 1: rows of one expert) of ``silu(gate x) * up x``, rows in their order.

    An expert's last tile is seldom full: up to REST rows it is a smaller product.
    """
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert >= 0:
        first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
        w = weight_at(weights, expert, x.dtype.element_ty, FORMAT)
        s = scales_at(scales, expert)
        if REST < BT and end - first <= REST:
            gate_up_rows(
                x,
                x_stride,
                w,
                s,
                row_token,
                active,
                first,
                end,
                WIDTH,
                HIDDEN,
                BN,
                REST,
                BK,
                FORMAT,
                UPCAST,
            )
        else:
            gate_up_rows(
                x,
                x_stride,
                w,
                s,
                row_token,
                active,
                first,
                end,
                WIDTH,
                HIDDEN,
                BN,
                BT,
                BK,
                FORMAT,
                UPCAST,
            )


@triton.jit
def down_rows(
    active,
    w,
    s,
    row_out,
    out,
    first,
    end,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Rows ``first`` to ``end``, at most BT, of the second product."""
    rows = first + tl.arange(0, BT)
    is_row = rows < end
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    is_out = n < HIDDEN
    acc = rows_times(
        active,
        rows.to(tl.int64) * WIDTH,
        is_row,
        w,
        s,
        n,
        is_out,
        0,
        WIDTH,
        WIDTH,
        BN,
        BT,
        BK,
        FORMAT,
        UPCAST,
    )
    places = tl.load(row_out + rows, mask=is_row, other=0)
    at = out + places.to(tl.int64)[None, :] * HIDDEN + n[:, None]
    stored = narrow(acc, out.dtype.element_ty, UPCAST)
    tl.store(at, stored, mask=is_out[:, None] & is_row[None, :])


@triton.jit
def down(
    active,
    weights,
    scales,
    tiles,
    row_out,
    out,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    REST: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The second product; every row goes to its place in the caller's order."""
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert >= 0:
        first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
        w = weight_at(weights, expert, active.dtype.element_ty, FORMAT)
        s = scales_at(scales, expert)
        if REST < BT and end - first <= REST:
            down_rows(
                active,
                w,
                s,
                row_out,
                out,
                first,
                end,
                WIDTH,
                HIDDEN,
                BN,
                REST,
                BK,
                FORMAT,
                UPCAST,
            )
        else:
            down_rows(
                active, w, s, row_out, out, first, end, WIDTH, HIDDEN, BN, BT, BK, FORMAT, UPCAST
            )


@triton.jit
def gated(sums, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr):
    """(0: row, 1: part of it): ``silu(gate) * up`` of sums that lie one after the other."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < WIDTH
    gate = tl.load(sums + row * (2 * WIDTH) + at, mask=mask, other=0.0)
    up = tl.load(sums + row * (2 * WIDTH) + WIDTH + at, mask=mask, other=0.0)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + at, narrow(result, out.dtype.element_ty, UPCAST), mask=mask)
