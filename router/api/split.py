"""Deltas of tokens, cut into single tokens, so that a stream is the same however it came."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace

from router.engine.request import TokenDelta


def split(delta: TokenDelta) -> Iterator[TokenDelta]:
    """A delta as deltas of one token each; the last one says how it ends."""
    last = len(delta.token_ids) - 1
    if last < 1:
        yield delta
        return
    for i, token_id in enumerate(delta.token_ids):
        piece = replace(
            delta,
            offset=delta.offset + i,
            token_ids=(token_id,),
            logprobs=delta.logprobs[i : i + 1],
            prompt_logprobs=delta.prompt_logprobs if i == 0 else (),
        )
        if i < last:
            piece = replace(piece, finish_reason=None, stop_token_id=None, error="")
        yield piece


async def one_by_one(
    deltas: AsyncGenerator[TokenDelta, None],
) -> AsyncGenerator[TokenDelta, None]:
    """A stream of deltas, each of one token at most; closing it closes ``deltas``."""
    async with aclosing(deltas):
        async for delta in deltas:
            for piece in split(delta):
                yield piece
