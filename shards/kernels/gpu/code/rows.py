"""What is done to whole rows: norms, residuals, the combine, latents on their way to the cache."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import joined, narrow


@triton.jit
def normed(x, weight, SIZE: tl.constexpr, eps):
    """``weight * x / sqrt(mean(x^2) + eps)`` of one row, all float32; zeros beyond its size."""
    inverse = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    return x * inverse * weight


@triton.jit
def rms_norm(x, weight, out, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < SIZE
    wide = tl.load(x + row * SIZE + at, mask=mask, other=0.0).to(tl.float32)
    result = normed(wide, tl.load(weight + at, mask=mask, other=0.0), SIZE, eps)
    tl.store(out + row * SIZE + at, narrow(result, out.dtype.element_ty, UPCAST), mask=mask)


@triton.jit
def add_norm(
    x,
    delta,
    delta_part,
    weight,
    total_out,
    normed_out,
    eps,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One row: ``x + delta``, rounded, its norm; parts of ``delta`` lie ``delta_part`` apart."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < SIZE
    dtype = total_out.dtype.element_ty
    wide = tl.load(x + row * SIZE + at, mask=mask, other=0.0).to(tl.float32)
    added = joined(delta + row * SIZE, at, mask, delta_part, PARTS, dtype, UPCAST)
    total = wide + added.to(tl.float32)
    rounded = narrow(total, dtype, UPCAST)
    tl.store(total_out + row * SIZE + at, rounded, mask=mask)
    result = normed(rounded.to(tl.float32), tl.load(weight + at, mask=mask, other=0.0), SIZE, eps)
    tl.store(normed_out + row * SIZE + at, narrow(result, dtype, UPCAST), mask=mask)


@triton.jit
def join_norm(
    x,
    shared,
    rows,
    shares,
    weight,
    total_out,
    normed_out,
    eps,
    TOP_K: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One token: shared expert, then routed ones by ascending id; the residual; the next norm."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < SIZE
    dtype = total_out.dtype.element_ty
    joined = tl.load(shared + token * SIZE + at, mask=mask, other=0.0).to(tl.float32)
    for k in tl.static_range(TOP_K):
        share = tl.load(shares + token * TOP_K + k)
        part = tl.load(rows + (token * TOP_K + k) * SIZE + at, mask=mask, other=0.0)
        joined = tl.fma(part.to(tl.float32), tl.broadcast_to(share, (BLOCK,)), joined)
    delta = narrow(joined, dtype, UPCAST).to(tl.float32)
    wide = tl.load(x + token * SIZE + at, mask=mask, other=0.0).to(tl.float32)
    rounded = narrow(wide + delta, dtype, UPCAST)
    tl.store(total_out + token * SIZE + at, rounded, mask=mask)
    result = normed(rounded.to(tl.float32), tl.load(weight + at, mask=mask, other=0.0), SIZE, eps)
    tl.store(normed_out + token * SIZE + at, narrow(result, dtype, UPCAST), mask=mask)


@triton.jit
def finite(x):
    """What is no finite number as 0: masked keys have weight 0, but 0 times NaN is NaN."""
    return tl.where((x == x) & (tl.abs(x) < 3.0e38), x, 0.0)


@triton.jit
def latents(
    both,
    both_part,
    q_weight,
    c_weight,
    cos,
    sin,
    slots,
    q_out,
    cache,
    eps,
    PARTS: tl.constexpr,
    Q_SIZE: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    C_SIZE: tl.constexpr,
    C_BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    P_BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One row of the first projections: the query's norm; latent and rotated key to the cache.

    A slot below 0 is a padding row's: nothing is stored. Parts of ``both`` lie ``both_part`` apart.
    """
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = q_out.dtype.element_ty
    base = both + row * (Q_SIZE + C_SIZE + 2 * PAIRS)
    q_at = tl.arange(0, Q_BLOCK)
    q_mask = q_at < Q_SIZE
    q = joined(base, q_at, q_mask, both_part, PARTS, dtype, UPCAST).to(tl.float32)
    q = normed(q, tl.load(q_weight + q_at, mask=q_mask, other=0.0), Q_SIZE, eps)
    tl.store(q_out + row * Q_SIZE + q_at, narrow(q, dtype, UPCAST), mask=q_mask)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        to = cache + slot * (C_SIZE + 2 * PAIRS)
        c_at = tl.arange(0, C_BLOCK)
        c_mask = c_at < C_SIZE
        c = joined(base + Q_SIZE, c_at, c_mask, both_part, PARTS, dtype, UPCAST).to(tl.float32)
        c = normed(c, tl.load(c_weight + c_at, mask=c_mask, other=0.0), C_SIZE, eps)
        tl.store(to + c_at, narrow(finite(c), dtype, UPCAST), mask=c_mask)
        pair = tl.arange(0, P_BLOCK)
        p_mask = pair < PAIRS
        key = base + Q_SIZE + C_SIZE
        even = joined(key, 2 * pair, p_mask, both_part, PARTS, dtype, UPCAST).to(tl.float32)
        odd = joined(key + 1, 2 * pair, p_mask, both_part, PARTS, dtype, UPCAST).to(tl.float32)
        c_of = tl.load(cos + row * PAIRS + pair, mask=p_mask, other=0.0)
        s_of = tl.load(sin + row * PAIRS + pair, mask=p_mask, other=0.0)
        first, second = tl.fma(even, c_of, -(odd * s_of)), tl.fma(odd, c_of, even * s_of)
        tl.store(to + C_SIZE + 2 * pair, narrow(finite(first), dtype, UPCAST), mask=p_mask)
        tl.store(to + C_SIZE + 2 * pair + 1, narrow(finite(second), dtype, UPCAST), mask=p_mask)
