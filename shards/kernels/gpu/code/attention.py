"""Latent attention over the paged cache, absorbed: one key head, values are the keys' latents.

Rows of a tile are (token, head). A row walks its keys in blocks, blocks make segments fixed by
absolute position, and segments are joined in their order, whether one program does it (prompts) or
many and a last one (decode): the same functions, so the same bits.
"""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import joined, narrow, product


@triton.jit(do_not_specialize=["num_rows"])
def queries(
    q,
    q_part,
    u_k,
    cos,
    sin,
    factors,
    out,
    num_rows,
    PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    NOPE: tl.constexpr,
    N_BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    P_BLOCK: tl.constexpr,
    LATENT: tl.constexpr,
    BN: tl.constexpr,
    BT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: rows, 1: head): absorbed and rotated, times softmax scale and temperature.

    Parts of ``q`` lie ``q_part`` apart.
    """
    rows = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    head = tl.program_id(1)
    is_row = rows < num_rows
    dtype: tl.constexpr = out.dtype.element_ty
    from_at = (rows * HEADS + head) * (NOPE + 2 * PAIRS)
    to_at = out + (rows * HEADS + head) * (LATENT + 2 * PAIRS)
    factor = tl.load(factors + rows, mask=is_row, other=0.0)
    d = tl.arange(0, N_BLOCK)
    mask = (d < NOPE)[:, None] & is_row[None, :]
    plain = joined(q, from_at[None, :] + d[:, None], mask, q_part, PARTS, dtype, UPCAST)
    for n0 in range(0, LATENT, BN):
        n = n0 + tl.arange(0, BN)
        u = tl.load(
            u_k + (head * LATENT + n)[:, None] * NOPE + d[None, :],
            mask=(n < LATENT)[:, None] & (d < NOPE)[None, :],
            other=0.0,
        )
        absorbed = product(u, plain, tl.zeros((BN, BT), tl.float32), UPCAST) * factor[None, :]
        mask = (n < LATENT)[:, None] & is_row[None, :]
        tl.store(to_at[None, :] + n[:, None], narrow(absorbed, dtype, UPCAST), mask=mask)
    pair = tl.arange(0, P_BLOCK)
    mask = (pair < PAIRS)[None, :] & is_row[:, None]
    at = from_at[:, None] + NOPE + 2 * pair[None, :]
    even = joined(q, at, mask, q_part, PARTS, dtype, UPCAST).to(tl.float32)
    odd = joined(q + 1, at, mask, q_part, PARTS, dtype, UPCAST).to(tl.float32)
    c = tl.load(cos + rows[:, None] * PAIRS + pair[None, :], mask=mask, other=0.0)
    s = tl.load(sin + rows[:, None] * PAIRS + pair[None, :], mask=mask, other=0.0)
    first = tl.fma(even, c, -(odd * s)) * factor[:, None]
    second = tl.fma(odd, c, even * s) * factor[:, None]
    to = to_at[:, None] + LATENT + 2 * pair[None, :]
    tl.store(to, narrow(first, dtype, UPCAST), mask=mask)
    tl.store(to + 1, narrow(second, dtype, UPCAST), mask=mask)


@triton.jit
def row_tile(
    q,
    first_row,
    num_tokens,
    HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    LATENT: tl.constexpr,
    L_BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    R_BLOCK: tl.constexpr,
    M: tl.constexpr,
):
    """Queries of a tile: latents ``[M, L_BLOCK]``, rotated ``[M, R_BLOCK]``; and its rows."""
    m = tl.arange(0, M)
    token, head = m // HEADS_BLOCK, m % HEADS_BLOCK
    is_row = (token < num_tokens) & (head < HEADS)
    row = ((first_row + token).to(tl.int64) * HEADS + head) * (LATENT + ROPE)
    at = tl.arange(0, L_BLOCK)
    mask = is_row[:, None] & (at < LATENT)[None, :]
    q_c = tl.load(q + row[:, None] + at[None, :], mask=mask, other=0.0)
    at = tl.arange(0, R_BLOCK)
    mask = is_row[:, None] & (at < ROPE)[None, :]
    q_r = tl.load(q + row[:, None] + LATENT + at[None, :], mask=mask, other=0.0)
    return q_c, q_r, token, head, is_row


@triton.jit
def first_key_of(number, NEAR: tl.constexpr, SMALL: tl.constexpr, SEGMENT: tl.constexpr):
    """Where a segment begins: SMALL keys each up to NEAR, then SEGMENT."""
    num_small: tl.constexpr = NEAR // SMALL
    return tl.where(number < num_small, number * SMALL, NEAR + (number - num_small) * SEGMENT)


@triton.jit
def num_segments_of(num_keys, NEAR: tl.constexpr, SMALL: tl.constexpr, SEGMENT: tl.constexpr):
    """Segments that so many keys fill."""
    near, far = tl.minimum(num_keys, NEAR), tl.maximum(num_keys - NEAR, 0)
    return (near + SMALL - 1) // SMALL + (far + SEGMENT - 1) // SEGMENT


@triton.jit
def segment(
    q_c,
    q_r,
    positions,
    last,
    cache,
    table,
    number,
    BLOCK_SIZE: tl.constexpr,
    LATENT: tl.constexpr,
    L_BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    R_BLOCK: tl.constexpr,
    M: tl.constexpr,
    KEYS: tl.constexpr,
    NEAR: tl.constexpr,
    SMALL: tl.constexpr,
    SEGMENT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Largest score, sum and weighted values of a segment's keys for rows at ``positions``.

    ``last`` is the last of these. A block that a row does not see changes no bit of it; a row that
    sees no key has -inf, 0 and zeros.
    """
    largest = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, L_BLOCK), tl.float32)
    at_c, at_r = tl.arange(0, L_BLOCK), tl.arange(0, R_BLOCK)
    first_key = tl.multiple_of(first_key_of(number, NEAR, SMALL, SEGMENT), SMALL)
    stop = tl.minimum(first_key_of(number + 1, NEAR, SMALL, SEGMENT), last + 1)
    for key in range(first_key, stop, KEYS):
        key_at = key + tl.arange(0, KEYS)
        is_key = key_at <= last
        block = tl.load(table + key_at // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        place = cache + (block * BLOCK_SIZE + key_at % BLOCK_SIZE) * (LATENT + ROPE)
        mask = is_key[:, None] & (at_c < LATENT)[None, :]
        c = tl.load(place[:, None] + at_c[None, :], mask=mask, other=0.0)
        mask = is_key[:, None] & (at_r < ROPE)[None, :]
        k_r = tl.load(place[:, None] + LATENT + at_r[None, :], mask=mask, other=0.0)
        scores = product(q_c, tl.trans(c), tl.zeros((M, KEYS), tl.float32), UPCAST)
        scores = product(q_r, tl.trans(k_r), scores, UPCAST)
        scores = tl.where(key_at[None, :] <= positions[:, None], scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(new == float("-inf"), 0.0, new)
        decay = tl.exp(largest - shift)
        p = tl.exp(scores - shift[:, None])
        total = tl.fma(total, decay, tl.sum(p, axis=1))
        acc = product(narrow(p, c.dtype, UPCAST), c, acc * decay[:, None], UPCAST)
        largest = new
    return largest, total, acc


@triton.jit
def join(largest, total, acc, more_largest, more_total, more_acc):
    """Two results as one; the second may have seen nothing, the first only if it is the start."""
    new = tl.maximum(largest, more_largest)
    keep, gain = tl.exp(largest - new), tl.exp(more_largest - new)
    total = tl.fma(total, keep, more_total * gain)
    keep = tl.broadcast_to(keep[:, None], acc.shape)
    return new, total, tl.fma(acc, keep, more_acc * gain[:, None])


@triton.jit(do_not_specialize=["table_stride"])
def attend_prompts(
    q,
    cache,
    tables,
    table_stride,
    tiles,
    out,
    HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LATENT: tl.constexpr,
    L_BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    R_BLOCK: tl.constexpr,
    M: tl.constexpr,
    KEYS: tl.constexpr,
    NEAR: tl.constexpr,
    SMALL: tl.constexpr,
    SEGMENT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One tile: consecutive tokens of one sequence, all their segments."""
    tile = tiles + tl.program_id(0) * 4
    first_row, num_tokens, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    table = tables + tl.load(tile + 3).to(tl.int64) * table_stride
    q_c, q_r, token, head, is_row = row_tile(
        q, first_row, num_tokens, HEADS, HEADS_BLOCK, LATENT, L_BLOCK, ROPE, R_BLOCK, M
    )
    last = position + num_tokens - 1
    positions = tl.minimum(position + token, last)
    largest = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, L_BLOCK), tl.float32)
    for number in range(num_segments_of(last + 1, NEAR, SMALL, SEGMENT)):
        more_largest, more_total, more = segment(
            q_c,
            q_r,
            positions,
            last,
            cache,
            table,
            number,
            BLOCK_SIZE,
            LATENT,
            L_BLOCK,
            ROPE,
            R_BLOCK,
            M,
            KEYS,
            NEAR,
            SMALL,
            SEGMENT,
            UPCAST,
        )
        largest, total, acc = join(largest, total, acc, more_largest, more_total, more)
    at = tl.arange(0, L_BLOCK)
    row = ((first_row + token).to(tl.int64) * HEADS + head) * LATENT
    result = narrow(acc / total[:, None], out.dtype.element_ty, UPCAST)
    mask = is_row[:, None] & (at < LATENT)[None, :]
    tl.store(out + row[:, None] + at[None, :], result, mask=mask)


@triton.jit(do_not_specialize=["table_stride"])
def attend_segments(
    q,
    cache,
    tables,
    table_stride,
    rows,
    positions,
    stats,
    parts,
    HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    LATENT: tl.constexpr,
    L_BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    R_BLOCK: tl.constexpr,
    M: tl.constexpr,
    KEYS: tl.constexpr,
    NEAR: tl.constexpr,
    SMALL: tl.constexpr,
    SEGMENT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(0: segment, 1: sequence): one token's heads over one segment, kept for ``join_segments``."""
    number, member = tl.program_id(0), tl.program_id(1)
    position = tl.load(positions + member)
    if first_key_of(number, NEAR, SMALL, SEGMENT) <= position:
        q_c, q_r, token, head, is_row = row_tile(
            q,
            tl.load(rows + member),
            1,
            HEADS,
            HEADS_BLOCK,
            LATENT,
            L_BLOCK,
            ROPE,
            R_BLOCK,
            M,
        )
        largest, total, acc = segment(
            q_c,
            q_r,
            position + token * 0,
            position,
            cache,
            tables + member.to(tl.int64) * table_stride,
            number,
            BLOCK_SIZE,
            LATENT,
            L_BLOCK,
            ROPE,
            R_BLOCK,
            M,
            KEYS,
            NEAR,
            SMALL,
            SEGMENT,
            UPCAST,
        )
        at = tl.arange(0, L_BLOCK)
        place = (member * tl.num_programs(0) + number).to(tl.int64) * HEADS + head
        tl.store(stats + place * 2, largest, mask=is_row)
        tl.store(stats + place * 2 + 1, total, mask=is_row)
        mask = is_row[:, None] & (at < LATENT)[None, :]
        tl.store(parts + place[:, None] * LATENT + at[None, :], acc, mask=mask)


@triton.jit(do_not_specialize=["num_segments"])
def join_segments(
    stats,
    parts,
    num_segments,
    rows,
    positions,
    out,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    L_BLOCK: tl.constexpr,
    NEAR: tl.constexpr,
    SMALL: tl.constexpr,
    SEGMENT: tl.constexpr,
    BH: tl.constexpr,
    AHEAD: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(0: heads, 1: sequence): segments of a token joined in their order.

    AHEAD of them are on their way from memory at once; those that are not there change nothing.
    """
    head = tl.program_id(0) * BH + tl.arange(0, BH)
    member = tl.program_id(1)
    is_head = head < HEADS
    position = tl.load(positions + member)
    at = tl.arange(0, L_BLOCK)
    mask = is_head[:, None] & (at < LATENT)[None, :]
    largest = tl.full((BH,), float("-inf"), tl.float32)
    total = tl.zeros((BH,), tl.float32)
    acc = tl.zeros((BH, L_BLOCK), tl.float32)
    count = num_segments_of(position + 1, NEAR, SMALL, SEGMENT)
    for first in range(0, count, AHEAD):
        for i in tl.static_range(AHEAD):
            number = first + i
            is_there = number < count
            place = (member * num_segments + number).to(tl.int64) * HEADS + head
            to_load = is_head & is_there
            more_largest = tl.load(stats + place * 2, mask=to_load, other=0.0)
            more_total = tl.load(stats + place * 2 + 1, mask=to_load, other=1.0)
            from_at = parts + place[:, None] * LATENT + at[None, :]
            more = tl.load(from_at, mask=mask & is_there, other=0.0)
            new, new_total, new_acc = join(largest, total, acc, more_largest, more_total, more)
            largest = tl.where(is_there, new, largest)
            total = tl.where(is_there, new_total, total)
            acc = tl.where(is_there, new_acc, acc)
    row = (tl.load(rows + member).to(tl.int64) * HEADS + head) * LATENT
    total = tl.where(position < 0, 1.0, total)
    result = narrow(acc / total[:, None], out.dtype.element_ty, UPCAST)
    tl.store(out + row[:, None] + at[None, :], result, mask=mask)
