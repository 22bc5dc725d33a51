"""From gate scores to the layout of grouped rows, without leaving the device."""

import triton
import triton.language as tl

from shards.kernels.gpu.code.tile import joined


@triton.jit
def top_k(
    logits,
    logits_part,
    slots,
    expert_ids,
    weights,
    scaling,
    PARTS: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    HAS_SLOTS: tl.constexpr,
):
    """One token: its ``TOP_K`` largest logits, ties to the lowest id; ids ascending, softmax.

    Parts of the logits lie ``logits_part`` apart.
    """
    token = tl.program_id(0)
    ids = tl.arange(0, BLOCK)
    is_expert = ids < NUM_EXPERTS
    at = logits + token * NUM_EXPERTS
    scores = joined(at, ids, is_expert, logits_part, PARTS, tl.float32, False)
    # What is no number, or too small, still leaves TOP_K different experts to choose.
    floor = tl.full((BLOCK,), -1e38, tl.float32)
    left = tl.where((scores == scores) & (scores > floor), scores, floor)
    left = tl.where(is_expert, left, float("-inf"))
    largest = tl.max(left, axis=0)
    is_chosen = ids < 0
    for _ in tl.static_range(TOP_K):
        best = tl.argmax(left, axis=0, tie_break_left=True)
        is_chosen = is_chosen | (ids == best)
        left = tl.where(ids == best, float("-inf"), left)
    parts = tl.where(is_chosen, tl.exp(tl.where(is_chosen, scores - largest, 0.0)), 0.0)
    shares = parts / tl.sum(parts, axis=0) * scaling
    place = tl.cumsum(is_chosen.to(tl.int32), axis=0) - 1
    at = token * TOP_K + place
    if HAS_SLOTS:
        ids = tl.where(tl.load(slots + token) < 0, NUM_EXPERTS, ids)
    tl.store(expert_ids + at, ids, mask=is_chosen)
    tl.store(weights + at, shares, mask=is_chosen)


@triton.jit(do_not_specialize=["num_rows", "max_tiles", "tile_rows"])
def layout(
    expert_ids,
    num_rows,
    row_token,
    row_out,
    tiles,
    max_tiles,
    tile_rows,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    HAS_SHARED: tl.constexpr,
):
    """All rows of a small step in one program: rows by expert, then by token, and their tiles.

    There are no more tiles than rows. HAS_SHARED: then all tokens once more, as rows of expert
    NUM_EXPERTS.
    """
    row = tl.arange(0, ROWS)
    mine = tl.load(expert_ids + row, mask=row < num_rows, other=NUM_EXPERTS)
    is_row = mine < NUM_EXPERTS
    expert = tl.arange(0, EXPERTS)
    has = (mine[:, None] == expert[None, :]) & is_row[:, None]
    counts = tl.sum(has.to(tl.int32), axis=0)
    starts = tl.cumsum(counts, axis=0) - counts
    rank = tl.cumsum(has.to(tl.int32), axis=0) - 1  # among the rows of the same expert
    place = tl.sum(tl.where(has, rank + starts[None, :], 0), axis=1)
    tl.store(row_token + place, row // TOP_K, mask=is_row)
    tl.store(row_out + place, row, mask=is_row)
    num_tiles = (counts + tile_rows - 1) // tile_rows
    tile_ends = tl.cumsum(num_tiles, axis=0)
    tile = tl.arange(0, ROWS)
    owner = tl.sum((tile_ends[None, :] <= tile[:, None]).to(tl.int32), axis=1)
    is_owner = owner[:, None] == expert[None, :]
    of_owner = tl.sum(tl.where(is_owner, (tile_ends - num_tiles)[None, :], 0), axis=1)
    start = tl.sum(tl.where(is_owner, starts[None, :], 0), axis=1)
    count = tl.sum(tl.where(is_owner, counts[None, :], 0), axis=1)
    first = start + (tile - of_owner) * tile_rows
    is_used = owner < EXPERTS
    is_tile = tile < max_tiles
    tl.store(tiles + tile * 3, tl.where(is_used, owner, -1), mask=is_tile)
    tl.store(tiles + tile * 3 + 1, first, mask=is_tile)
    tl.store(tiles + tile * 3 + 2, start + count, mask=is_tile)
    if HAS_SHARED:
        num_tokens = num_rows // TOP_K
        is_token = row < num_tokens
        tl.store(row_token + num_rows + row, row, mask=is_token)
        tl.store(row_out + num_rows + row, num_rows + row, mask=is_token)
        is_tile = tile * tile_rows < num_tokens
        at = tiles + (max_tiles + tile) * 3
        tl.store(at, tile * 0 + NUM_EXPERTS, mask=is_tile)
        tl.store(at + 1, num_rows + tile * tile_rows, mask=is_tile)
        tl.store(at + 2, tile * 0 + num_rows + num_tokens, mask=is_tile)
