"""What a new token means for its sequence: pure decisions."""

from __future__ import annotations

from typing import NamedTuple

from router.engine.request import FinishReason
from router.engine.sequence import Sequence


class Ending(NamedTuple):
    """Why a sequence ends with its last token."""

    reason: FinishReason
    stop_token_id: int | None = None


def ending_with(
    sequence: Sequence, token_id: int, num_before: int, eos_token_id: int
) -> Ending | None:
    """Whether a token ends the sequence. Stop strings are the frontend's.

    ``num_before``: tokens between those that the sequence knows and this one.
    """
    params = sequence.request.sampling
    num_generated = sequence.num_generated + num_before + 1
    if num_generated >= params.min_tokens:
        if token_id == eos_token_id and not params.ignore_eos:
            return Ending(FinishReason.STOP, token_id)
        if token_id in params.stop_token_ids:
            return Ending(FinishReason.STOP, token_id)
    is_full = sequence.num_tokens + num_before + 1 >= sequence.max_num_tokens
    if is_full or num_generated >= params.max_tokens:
        return Ending(FinishReason.LENGTH)
    return None
