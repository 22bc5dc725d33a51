"""Parts of every product: tiles of a weight in any format times rows, in one order of sums.

A weight is the left operand: its codes become the numbers of the matrix unit on their way through
registers, and 16 rows are enough for a tile. Multiplications whose result is added go through
``fma``: no compiler may then contract one copy of a formula and not another.
"""

import triton
import triton.language as tl

WIDE = tl.constexpr(0)  # numbers of the rows' own type
FP8 = tl.constexpr(1)  # e4m3 codes, one float32 scale a row of the weight
INT8 = tl.constexpr(2)  # the same with integers
INT4 = tl.constexpr(3)  # two codes a byte, one float32 scale a group of 64 inputs
GROUP = tl.constexpr(64)
HALF_GROUP = tl.constexpr(32)


@triton.jit
def product(a, b, acc, UPCAST: tl.constexpr):
    """``acc + a @ b``; UPCAST where the matrix unit (or the interpreter) has no such numbers."""
    if UPCAST:
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def narrow(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """float32 rounded to nearest even; the interpreter would cut bf16 off."""
    if UPCAST and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = bits + (((bits >> 16) & 1) + 0x7FFF)
        x = (bits & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def joined(parts, at, mask, stride, PARTS: tl.constexpr, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """Elements of a product that lies there in parts: as if it had been stored as ``dtype``."""
    if PARTS == 1:
        whole = tl.load(parts + at, mask=mask, other=0.0)
    else:
        total = tl.zeros(at.shape, tl.float32)
        for part in tl.static_range(PARTS):
            total += tl.load(parts + part * stride + at, mask=mask, other=0.0)
        whole = narrow(total, dtype, UPCAST)
    return whole


@triton.jit
def input_tile(x, row_offsets, is_row, k, K: tl.constexpr):
    """``[len(k), rows]``: inputs ``k`` of rows that begin at ``row_offsets``; zeros elsewhere."""
    mask = (k < K)[:, None] & is_row[None, :]
    return tl.load(x + row_offsets[None, :] + k[:, None], mask=mask, other=0.0)


@triton.jit
def less(codes, zero: tl.constexpr):
    """``codes - zero`` of bytes, float32: as the last bits of 2^23 + code, not by the slow unit."""
    bits = codes.to(tl.uint32) | 0x4B000000
    return bits.to(tl.float32, bitcast=True) - (8388608.0 + zero)


@triton.jit
def numbers_of(codes, FORMAT: tl.constexpr, LIKE: tl.constexpr, UPCAST: tl.constexpr):
    """What is loaded of a weight as numbers for ``product`` with rows of type LIKE."""
    if FORMAT == WIDE:
        numbers = codes
    elif FORMAT == FP8:
        # By way of float16 and float32: straight to bf16 takes a slow unit, 16 numbers a clock.
        half = codes.to(tl.float8e4nv, bitcast=True).to(tl.float16)
        numbers = half.to(tl.float32).to(tl.float32 if UPCAST else LIKE)
    else:
        numbers = less(codes ^ 128, 128).to(tl.float32 if UPCAST else LIKE)
    return numbers


@triton.jit
def weight_tile(w, n, is_out, k, K: tl.constexpr, FORMAT: tl.constexpr):
    """``[len(n), len(k)]`` of a weight ``[N, K]`` as it lies there."""
    mask = is_out[:, None] & (k < K)[None, :]
    return tl.load(w + n[:, None] * K + k[None, :], mask=mask, other=0)


@triton.jit
def nibbles(codes, LIKE: tl.constexpr, UPCAST: tl.constexpr):
    """0 to 15 as numbers of -8 to 7."""
    return less(codes, 8).to(tl.float32 if UPCAST else LIKE)


@triton.jit
def add_group(acc, w, scales, n, is_out, group, low, high, K: tl.constexpr, UPCAST: tl.constexpr):
    """``acc`` and one group of 64 inputs of an int4 weight; ``low`` and ``high`` are its inputs."""
    groups: tl.constexpr = (K + GROUP - 1) // GROUP
    half = tl.arange(0, HALF_GROUP)
    at = w + n[:, None] * (groups * HALF_GROUP) + (half + group * HALF_GROUP)[None, :]
    codes = tl.load(at, mask=is_out[:, None], other=0)
    part = tl.zeros(acc.shape, tl.float32)
    part = product(nibbles(codes & 15, low.dtype, UPCAST), low, part, UPCAST)
    part = product(nibbles(codes >> 4, low.dtype, UPCAST), high, part, UPCAST)
    scale = tl.load(scales + n * groups + group, mask=is_out, other=0.0)
    return tl.fma(part, tl.broadcast_to(scale[:, None], acc.shape), acc)


@triton.jit
def rows_times(
    x,
    row_offsets,
    is_row,
    w,
    scales,
    n,
    is_out,
    first,
    COUNT: tl.constexpr,
    K: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    FORMAT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """``[BN, BT]`` float32: rows ``n`` of a weight times rows of x, walked by ascending inputs.

    Over COUNT inputs from ``first`` on; both are multiples of BK and of GROUP, or these are all.
    """
    acc = tl.zeros((BN, BT), tl.float32)
    if FORMAT == INT4:
        half = tl.arange(0, HALF_GROUP)
        for number in range((COUNT + GROUP - 1) // GROUP):
            group = first // GROUP + number
            low = input_tile(x, row_offsets, is_row, half + group * GROUP, K)
            high = input_tile(x, row_offsets, is_row, half + (group * GROUP + HALF_GROUP), K)
            acc = add_group(acc, w, scales, n, is_out, group, low, high, K, UPCAST)
    else:
        ks = first + tl.arange(0, BK)
        for k0 in range(0, COUNT, BK):
            inputs = input_tile(x, row_offsets, is_row, ks + k0, K)
            codes = weight_tile(w, n, is_out, ks + k0, K, FORMAT)
            acc = product(numbers_of(codes, FORMAT, inputs.dtype, UPCAST), inputs, acc, UPCAST)
        if FORMAT != WIDE:
            acc = acc * tl.load(scales + n, mask=is_out, other=0.0)[:, None]
    return acc
