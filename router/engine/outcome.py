"""What a new token means for its sequence: pure decisions."""

from __future__ import annotations

from typing import NamedTuple

from router.engine.request import FinishReason
from router.engine.sequence import Sequence


class Ending(NamedTuple):
    """Why a sequence ends with its last token."""

    reason: FinishReason
    stop_token_id: int | None = None


def ending_of(
    sequence: Sequence, eos_token_id: int, *, is_grammar_ended: bool = False
) -> Ending | None:
    """Whether the token just appended ends the sequence. Stop strings are the frontend's.

    The end of a grammar ends it whatever ``min_tokens`` and ``ignore_eos`` say: nothing may follow.
    """
    params = sequence.request.sampling
    token = sequence.token_ids[-1]
    if is_grammar_ended:
        return Ending(FinishReason.STOP, token)
    if sequence.num_generated >= params.min_tokens:
        if token == eos_token_id and not params.ignore_eos:
            return Ending(FinishReason.STOP, token)
        if token in params.stop_token_ids:
            return Ending(FinishReason.STOP, token)
    is_full = sequence.num_tokens >= sequence.max_num_tokens
    if is_full or sequence.num_generated >= params.max_tokens:
        return Ending(FinishReason.LENGTH)
    return None
