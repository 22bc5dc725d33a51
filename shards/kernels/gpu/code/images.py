"""Attention of a picture's patches."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import narrow, product


@triton.jit(do_not_specialize=["num_rows", "num_keys"])
def attend(
    q,
    keys,
    values,
    out,
    num_rows,
    num_keys,
    scale,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    D_BLOCK: tl.constexpr,
    M: tl.constexpr,
    KEYS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Tile (0: queries, 1: head) over all keys, in blocks counted from the first."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    d = tl.arange(0, D_BLOCK)
    is_row = rows < num_rows
    row_at = (rows.to(tl.int64)[:, None] * HEADS + head) * DIM + d[None, :]
    row_mask = is_row[:, None] & (d < DIM)[None, :]
    queries = tl.load(q + row_at, mask=row_mask, other=0.0)
    largest = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D_BLOCK), tl.float32)
    for first in range(0, num_keys, KEYS):
        key = first + tl.arange(0, KEYS)
        is_key = key < num_keys
        key_at = (key.to(tl.int64)[:, None] * HEADS + head) * DIM + d[None, :]
        mask = is_key[:, None] & (d < DIM)[None, :]
        k = tl.load(keys + key_at, mask=mask, other=0.0)
        v = tl.load(values + key_at, mask=mask, other=0.0)
        scores = product(queries, tl.trans(k), tl.zeros((M, KEYS), tl.float32), UPCAST) * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, axis=1))
        decay = tl.exp(largest - new)
        p = tl.exp(scores - new[:, None])
        total = tl.fma(total, decay, tl.sum(p, axis=1))
        acc = product(narrow(p, v.dtype, UPCAST), v, acc * decay[:, None], UPCAST)
        largest = new
    result = narrow(acc / total[:, None], out.dtype.element_ty, UPCAST)
    tl.store(out + row_at, result, mask=row_mask)
