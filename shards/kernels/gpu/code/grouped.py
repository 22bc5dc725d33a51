"""Experts: tiles of rows of one expert each. A table of addresses says where its weights lie."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import (
    GROUP,
    HALF_GROUP,
    INT4,
    WIDE,
    add_group,
    input_tile,
    narrow,
    numbers_of,
    product,
    rows_times,
    weight_tile,
)


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
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: outputs, 1: rows of one expert) of ``silu(gate x) * up x``, rows in their order."""
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert >= 0:
        first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
        rows = first + tl.arange(0, BT)
        is_row = rows < end
        tokens = tl.load(row_token + rows, mask=is_row, other=0)
        offsets = tokens.to(tl.int64) * x_stride
        w = weight_at(weights, expert, x.dtype.element_ty, FORMAT)
        s = scales_at(scales, expert)
        n = tl.program_id(0) * BN + tl.arange(0, BN)
        is_out = n < WIDTH
        gate = tl.zeros((BN, BT), tl.float32)
        up = tl.zeros((BN, BT), tl.float32)
        if FORMAT == INT4:
            half = tl.arange(0, HALF_GROUP)
            for group in range((HIDDEN + GROUP - 1) // GROUP):
                low = input_tile(x, offsets, is_row, half + group * GROUP, HIDDEN)
                high = input_tile(x, offsets, is_row, half + (group * GROUP + HALF_GROUP), HIDDEN)
                gate = add_group(gate, w, s, n, is_out, group, low, high, HIDDEN, UPCAST)
                up = add_group(up, w, s, WIDTH + n, is_out, group, low, high, HIDDEN, UPCAST)
        else:
            ks = tl.arange(0, BK)
            for k0 in range(0, HIDDEN, BK):
                k = ks + k0
                inputs = input_tile(x, offsets, is_row, k, HIDDEN)
                codes = weight_tile(w, n, is_out, k, HIDDEN, FORMAT)
                of_gate = numbers_of(codes, FORMAT, inputs.dtype, UPCAST)
                gate = product(of_gate, inputs, gate, UPCAST)
                codes = weight_tile(w, WIDTH + n, is_out, k, HIDDEN, FORMAT)
                of_up = numbers_of(codes, FORMAT, inputs.dtype, UPCAST)
                up = product(of_up, inputs, up, UPCAST)
            if FORMAT != WIDE:
                gate = gate * tl.load(s + n, mask=is_out, other=0.0)[:, None]
                up = up * tl.load(s + WIDTH + n, mask=is_out, other=0.0)[:, None]
        result = gate / (1.0 + tl.exp(-gate)) * up
        at = active + rows.to(tl.int64)[None, :] * WIDTH + n[:, None]
        stored = narrow(result, active.dtype.element_ty, UPCAST)
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
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The second product; every row goes to its place in the caller's order."""
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert >= 0:
        first, end = tl.load(tiles + tile * 3 + 1), tl.load(tiles + tile * 3 + 2)
        rows = first + tl.arange(0, BT)
        is_row = rows < end
        n = tl.program_id(0) * BN + tl.arange(0, BN)
        is_out = n < HIDDEN
        acc = rows_times(
            active,
            rows.to(tl.int64) * WIDTH,
            is_row,
            weight_at(weights, expert, active.dtype.element_ty, FORMAT),
            scales_at(scales, expert),
            n,
            is_out,
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
def gated(sums, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr):
    """(0: row, 1: part of it): ``silu(gate) * up`` of sums that lie one after the other."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < WIDTH
    gate = tl.load(sums + row * (2 * WIDTH) + at, mask=mask, other=0.0)
    up = tl.load(sums + row * (2 * WIDTH) + WIDTH + at, mask=mask, other=0.0)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + at, narrow(result, out.dtype.element_ty, UPCAST), mask=mask)
