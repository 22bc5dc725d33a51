"""Latent attention over the paged cache.

Keys are walked in blocks of ``KEYS`` and segments (see ``shards.kernels.segments``), counted from
the sequence's start: splits never depend on length or batch, so a token's bits depend on its own
history alone, decoded or prefilled.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

from shards.kernels.gpu.code import attention as code
from shards.kernels.gpu.launch import NO_FUSION, Tile, block, upcasts, verified
from shards.kernels.gpu.linear import in_parts
from shards.kernels.segments import NEAR, SEGMENT, SMALL, segments_of

KEYS: Final = 32
ROWS: Final = 64  # (token, head) pairs of a program, at decode too: the same shape, the same bits
_HEADS_TO_JOIN: Final = 1
_SEGMENTS_AHEAD: Final = 16  # a join waits for memory, so much at once
_QUERY_ROWS: Final = 16
_NUM_WARPS: Final = 4
_JOIN_WARPS: Final = 2
# A prompt's program has two sums of [ROWS, latent]: 4 warps would spill. With 8 both halves compute
# the same weights of values, so decode takes 4 where these give the same bits.
_PROMPT: Final = Tile(0, ROWS, KEYS, 8, 3)
_DECODE: Final = (_PROMPT, Tile(0, ROWS, KEYS, 4, 3))
_PROBE_POSITIONS: Final = (0, 70, 2700)
_SEGMENTS: Final = {"NEAR": NEAR, "SMALL": SMALL, "SEGMENT": SEGMENT}


class AttentionShape(NamedTuple):
    """Sizes of a layer's attention."""

    heads: int
    nope: int
    rope: int
    latent: int
    value: int

    @property
    def tokens_per_tile(self) -> int:
        """Tokens of a program that attends for a prompt."""
        return ROWS // block(self.heads, 1)

    @property
    def is_supported(self) -> bool:
        """Whether a tile holds all heads of a token."""
        return self.heads <= ROWS and self.rope % 2 == 0


def queries(
    q: torch.Tensor,
    u_k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    factors: torch.Tensor,
    shape: AttentionShape,
) -> torch.Tensor:
    """Queries in the space of the cache.

    Args:
        q: ``[T, H * (nope + rope)]``, or parts of it, see ``DeviceLinear.parts``.
        u_k: ``[H, latent, nope]`` of the rows' dtype.
        cos: ``[T, rope / 2]`` float32.
        sin: The same.
        factors: ``[T]`` float32: softmax scale times the position's temperature.
        shape: Sizes.

    Returns:
        ``[T, H, latent + rope]``. Source: model reference, section 2, steps 4, 5 and 7.
    """
    q = in_parts(q)
    num_rows = q.shape[1]
    out = u_k.new_empty((num_rows, shape.heads, shape.latent + shape.rope))
    code.queries[(-(-num_rows // _QUERY_ROWS), shape.heads)](
        *(q, q.stride(0), u_k, cos, sin, factors, out, num_rows),
        PARTS=len(q),
        HEADS=shape.heads,
        NOPE=shape.nope,
        N_BLOCK=block(shape.nope),
        PAIRS=shape.rope // 2,
        P_BLOCK=block(shape.rope // 2),
        LATENT=shape.latent,
        BN=64,
        BT=_QUERY_ROWS,
        UPCAST=upcasts(u_k.dtype),
        num_warps=_NUM_WARPS,
        **NO_FUSION,
    )
    return out


def attend_prompts(
    q: torch.Tensor,
    cache: torch.Tensor,
    tables: torch.Tensor,
    tiles: torch.Tensor,
    out: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """Chunks of several tokens, causal.

    Args:
        q: ``[T, H, latent + rope]``.
        cache: ``[blocks, block size, latent + rope]`` of the layer.
        tables: ``[S, blocks]`` int32 block ids of sequences.
        tiles: ``[n, 4]`` int32: first row of ``q``, tokens (at most ``tokens_per_tile``), position
            of the first, row of ``tables``.
        out: ``[T, H, latent]`` to write to, at the rows of ``q``.
        shape: Sizes.
    """
    code.attend_prompts[(len(tiles),)](
        *(q, cache, tables, tables.stride(0), tiles, out), **_sizes(q, cache, shape, _PROMPT)
    )


def attend_decodes(
    q: torch.Tensor,
    cache: torch.Tensor,
    tables: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    num_segments: int,
    out: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """One token of each of B sequences.

    Args:
        q: ``[T, H, latent + rope]``.
        cache: ``[blocks, block size, latent + rope]`` of the layer.
        tables: ``[B, blocks]`` int32.
        rows: ``[B]`` int32 rows of ``q`` and ``out``.
        positions: ``[B]`` int32 of the tokens; below 0: a row of padding, made 0.
        num_segments: At least those of the longest; more change no bit.
        out: ``[T, H, latent]`` to write to.
        shape: Sizes.
    """
    key = ("attention", shape, cache.shape[1], q.dtype, q.device)
    tile = verified(key, _DECODE, lambda tile: _probe(tile, cache, shape))[-1]
    of = q, cache, tables, rows, positions
    _attend_decodes(*of, num_segments, out, shape, tile)


def _attend_decodes(
    q: torch.Tensor,
    cache: torch.Tensor,
    tables: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    num_segments: int,
    out: torch.Tensor,
    shape: AttentionShape,
    tile: Tile,
) -> None:
    members = len(rows)
    sizes = _sizes(q, cache, shape, tile)
    stats = q.new_empty((members, num_segments, shape.heads, 2), dtype=torch.float32)
    parts = q.new_empty((members, num_segments, shape.heads, shape.latent), dtype=torch.float32)
    code.attend_segments[(num_segments, members)](
        *(q, cache, tables, tables.stride(0), rows, positions, stats, parts), **sizes
    )
    join(stats, parts, rows, positions, out, shape)


def _probe(tile: Tile, like: torch.Tensor, shape: AttentionShape) -> torch.Tensor:
    """``[B, H, latent]`` of random tokens at several positions of one random sequence."""
    generator = torch.Generator(like.device).manual_seed(0)
    longest, block_size = max(_PROBE_POSITIONS) + 1, like.shape[1]
    num_blocks = -(-longest // block_size)
    width = shape.latent + shape.rope

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=like.device).to(like.dtype)

    cache, q = noise(num_blocks, block_size, width), noise(3, shape.heads, width) * width**-0.5
    positions = torch.tensor(_PROBE_POSITIONS, dtype=torch.int32, device=like.device)
    rows = torch.arange(len(positions), dtype=torch.int32, device=like.device)
    table = torch.arange(num_blocks, dtype=torch.int32, device=like.device)
    tables = table.expand(len(positions), -1).contiguous()
    out = like.new_empty((len(positions), shape.heads, shape.latent))
    of = q, cache, tables, rows, positions
    _attend_decodes(*of, segments_of(longest), out, shape, tile)
    return out


def join(
    stats: torch.Tensor,
    parts: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    out: torch.Tensor,
    shape: AttentionShape,
) -> None:
    """Segments of every sequence as one, in their order.

    Args:
        stats: ``[B, segments, H, 2]`` float32: largest score and sum of weights.
        parts: ``[B, segments, H, latent]`` float32: weighted values.
        rows: See ``attend_decodes``; so are the others.
        positions: The same.
        out: The same.
        shape: Sizes.
    """
    members, num_segments = stats.shape[:2]
    code.join_segments[(-(-shape.heads // _HEADS_TO_JOIN), members)](
        *(stats, parts, num_segments, rows, positions, out),
        HEADS=shape.heads,
        LATENT=shape.latent,
        L_BLOCK=block(shape.latent),
        **_SEGMENTS,
        BH=_HEADS_TO_JOIN,
        AHEAD=_SEGMENTS_AHEAD,
        UPCAST=upcasts(out.dtype),
        num_warps=_JOIN_WARPS,
        **NO_FUSION,
    )


def _sizes(
    q: torch.Tensor, cache: torch.Tensor, shape: AttentionShape, tile: Tile
) -> dict[str, object]:
    return {
        "HEADS": shape.heads,
        "HEADS_BLOCK": block(shape.heads, 1),
        "BLOCK_SIZE": cache.shape[1],
        "LATENT": shape.latent,
        "L_BLOCK": block(shape.latent),
        "ROPE": shape.rope,
        "R_BLOCK": block(shape.rope),
        "M": tile.rows,
        "KEYS": tile.inputs,
        **_SEGMENTS,
        "UPCAST": upcasts(q.dtype),
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        **NO_FUSION,
    }


def reference(
    q: torch.Tensor, keys: torch.Tensor, position: int, shape: AttentionShape
) -> torch.Tensor:
    """``[H, latent]`` float32 of one token: ``[H, latent + rope]`` queries, ``[n, ...]`` keys."""
    seen = keys[: position + 1].float()
    shares = torch.softmax(q.float() @ seen.T, dim=-1)
    return shares @ seen[:, : shape.latent]
