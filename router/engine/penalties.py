"""What changes the logits before temperature: a mask, penalties, bias and the minimum length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from router.engine.guide import Mask
from router.engine.request import SamplingParams


def needs_penalties(params: SamplingParams) -> bool:
    """Whether a ``PenaltyState`` must be kept for a request with these parameters."""
    return (
        params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
    )


class PenaltyState:
    """Tokens seen in one choice so far, a function of prompt and output: rebuilt by replay."""

    def __init__(self, vocab_size: int) -> None:
        self._is_seen = np.zeros(vocab_size, dtype=np.bool_)
        self._num_in_output = np.zeros(vocab_size, dtype=np.int32)

    def observe_prompt(self, token_ids: Sequence[int]) -> None:
        """Count prompt tokens: the repetition penalty is for prompt and output."""
        self._is_seen[np.asarray(token_ids, dtype=np.int64)] = True

    def observe(self, token_id: int) -> None:
        """Count one emitted token."""
        self._is_seen[token_id] = True
        self._num_in_output[token_id] += 1

    def seen_ids(self) -> npt.NDArray[np.intp]:
        """Ids in prompt or output, ascending, each once."""
        return np.flatnonzero(self._is_seen)

    def output_ids(self) -> npt.NDArray[np.intp]:
        """Ids in the output, ascending, each once."""
        return np.flatnonzero(self._num_in_output)

    def output_counts(self, token_ids: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        """How often each id is in the output."""
        return self._num_in_output[token_ids]


def adjust_logits(
    logits: npt.NDArray[np.float32],
    params: SamplingParams,
    *,
    num_generated: int,
    penalties: PenaltyState | None,
    eos_token_id: int,
    allowed: Mask | None = None,
) -> npt.NDArray[np.float32]:
    """Logits after, in this order, each step rounded to float32:

    0. -inf for tokens that are not ``allowed``
    1. repetition: seen tokens, ``l / r`` if ``l > 0`` else ``l * r`` (arXiv:1909.05858, 4.1)
    2. frequency: ``l - f * count in output``
    3. presence: ``l - p`` for tokens in the output
    4. logit bias: ``l + b``
    5. below ``min_tokens`` generated: -inf for the end token and the stop tokens; under a mask
       ``ignore_eos`` does so for the end token; neither where it would leave no token

    Args:
        logits: ``[V]`` float32, not changed.
        params: Sampling parameters, validated.
        num_generated: Tokens of this choice before the one to be drawn.
        penalties: State of this choice, needed if ``needs_penalties(params)``.
        eos_token_id: End of sequence, masked by 5. even with ``ignore_eos``.
        allowed: ``[V]``, not changed; None: every token.

    Returns:
        ``[V]`` float32; ``logits`` itself if nothing applies.

    Raises:
        ValueError: ``penalties`` is missing although needed.
    """
    is_short = num_generated < params.min_tokens
    if not (needs_penalties(params) or params.logit_bias or is_short or allowed is not None):
        return logits
    adjusted = logits.copy() if allowed is None else np.where(allowed, logits, np.float32(-np.inf))
    if needs_penalties(params):
        if penalties is None:
            raise ValueError("penalties must be given: the parameters ask for them")
        _penalise(adjusted, params, penalties)
    if params.logit_bias:
        ids = np.fromiter(params.logit_bias.keys(), dtype=np.int64)
        adjusted[ids] += np.fromiter(params.logit_bias.values(), dtype=np.float32)
    ends = [eos_token_id, *params.stop_token_ids] if is_short else []
    if allowed is not None and params.ignore_eos:
        ends.append(eos_token_id)
    if ends and (allowed is None or _leaves_any(allowed, ends)):
        adjusted[ends] = -np.inf
    return adjusted


def _leaves_any(allowed: Mask, without: list[int]) -> bool:
    rest = allowed.copy()
    rest[without] = False
    return bool(rest.any())


def _penalise(
    logits: npt.NDArray[np.float32], params: SamplingParams, penalties: PenaltyState
) -> None:
    if params.repetition_penalty != 1:
        factor = np.float32(params.repetition_penalty)
        ids = penalties.seen_ids()
        old = logits[ids]
        logits[ids] = np.where(old > 0, old / factor, old * factor)
    ids = penalties.output_ids()
    if params.frequency_penalty != 0:
        counts = penalties.output_counts(ids).astype(np.float32)
        logits[ids] -= np.float32(params.frequency_penalty) * counts
    if params.presence_penalty != 0:
        logits[ids] -= np.float32(params.presence_penalty)
