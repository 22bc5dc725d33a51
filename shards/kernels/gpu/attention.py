"""Latent attention over the paged cache.

Keys are walked in blocks of ``KEYS`` and segments of ``SEGMENT`` positions, both counted from the
sequence's start: splits never depend on length or batch, so a token's bits depend on its own
history alone, decoded or prefilled.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

from shards.kernels.gpu.code import attention as code
from shards.kernels.gpu.launch import NO_FUSION, block, upcasts

KEYS: Final = 64
SEGMENT: Final = 512  # a program's keys at decode: 64 programs share one sequence of 32k
ROWS: Final = 64  # (token, head) pairs of a program, at decode too: the same shape, the same bits
_HEADS_TO_JOIN: Final = 4
_QUERY_ROWS: Final = 16
_NUM_WARPS: Final = 4
_ATTEND_WARPS: Final = 8  # a prompt's program has two sums of [ROWS, latent]: 4 would spill


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
        q: ``[T, H * (nope + rope)]``.
        u_k: ``[H, latent, nope]`` of the dtype of ``q``.
        cos: ``[T, rope / 2]`` float32.
        sin: The same.
        factors: ``[T]`` float32: softmax scale times the position's temperature.
        shape: Sizes.

    Returns:
        ``[T, H, latent + rope]``. Source: model reference, section 2, steps 4, 5 and 7.
    """
    out = q.new_empty((len(q), shape.heads, shape.latent + shape.rope))
    code.queries[(-(-len(q) // _QUERY_ROWS), shape.heads)](
        *(q, u_k, cos, sin, factors, out, len(q)),
        HEADS=shape.heads,
        NOPE=shape.nope,
        N_BLOCK=block(shape.nope),
        PAIRS=shape.rope // 2,
        P_BLOCK=block(shape.rope // 2),
        LATENT=shape.latent,
        BN=64,
        BT=_QUERY_ROWS,
        UPCAST=upcasts(q.dtype),
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
        *(q, cache, tables, tables.stride(0), tiles, out), **_sizes(q, cache, shape)
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
    members = len(rows)
    sizes = _sizes(q, cache, shape)
    stats = q.new_empty((members, num_segments, shape.heads, 2), dtype=torch.float32)
    parts = q.new_empty((members, num_segments, shape.heads, shape.latent), dtype=torch.float32)
    code.attend_segments[(num_segments, members)](
        *(q, cache, tables, tables.stride(0), rows, positions, stats, parts), **sizes
    )
    code.join_segments[(-(-shape.heads // _HEADS_TO_JOIN), members)](
        *(stats, parts, num_segments, rows, positions, out),
        HEADS=shape.heads,
        LATENT=shape.latent,
        L_BLOCK=block(shape.latent),
        SEGMENT=SEGMENT,
        BH=_HEADS_TO_JOIN,
        UPCAST=upcasts(q.dtype),
        num_warps=_NUM_WARPS,
        **NO_FUSION,
    )


def segments_of(num_keys: int) -> int:
    """Segments that so many keys fill."""
    return -(-num_keys // SEGMENT)


def _sizes(q: torch.Tensor, cache: torch.Tensor, shape: AttentionShape) -> dict[str, object]:
    return {
        "HEADS": shape.heads,
        "HEADS_BLOCK": block(shape.heads, 1),
        "BLOCK_SIZE": cache.shape[1],
        "LATENT": shape.latent,
        "L_BLOCK": block(shape.latent),
        "ROPE": shape.rope,
        "R_BLOCK": block(shape.rope),
        "M": ROWS,
        "KEYS": KEYS,
        "SEGMENT": SEGMENT,
        "UPCAST": upcasts(q.dtype),
        "num_warps": _ATTEND_WARPS,
        "num_stages": 2,
        **NO_FUSION,
    }


def reference(
    q: torch.Tensor, keys: torch.Tensor, position: int, shape: AttentionShape
) -> torch.Tensor:
    """``[H, latent]`` float32 of one token: ``[H, latent + rope]`` queries, ``[n, ...]`` keys."""
    seen = keys[: position + 1].float()
    shares = torch.softmax(q.float() @ seen.T, dim=-1)
    return shares @ seen[:, : shape.latent]
