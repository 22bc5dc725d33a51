"""What changes the logits before temperature: a mask, penalties, bias and the minimum length.

A mask goes over the whole vocabulary, the rest touches few tokens: so a row's changes are kept as
these (``Edits``), and nobody copies the row for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from router.engine.guide import Mask
from router.engine.request import SamplingParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Edits(NamedTuple):
    """What becomes of a row ``[V]``: ``ids`` get ``values``, of the others those not allowed -inf.

    ``ids`` may name a token twice, with the same value.
    """

    allowed: Mask | None  # None: every token
    ids: Ids  # [N]
    values: Logits  # [N]

    def on(self, logits: Logits) -> Logits:
        """``[V]``: what the row is afterwards."""
        if self.allowed is None:
            edited = logits.copy()
        else:
            edited = np.where(self.allowed, logits, np.float32(-np.inf))
        edited[self.ids] = self.values
        return edited


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
        self._seen: Ids = np.empty(0, dtype=np.int64)  # in any order, with room behind
        self._num_seen = 0

    def observe_prompt(self, token_ids: Sequence[int]) -> None:
        """Count prompt tokens: the repetition penalty is for prompt and output."""
        self._is_seen[np.asarray(token_ids, dtype=np.int64)] = True
        self._seen = np.flatnonzero(self._is_seen)
        self._num_seen = self._seen.size

    def observe(self, token_id: int) -> None:
        """Count one emitted token."""
        if not self._is_seen[token_id]:
            if self._num_seen == self._seen.size:
                self._seen = np.resize(self._seen, 2 * self._num_seen + 16)
            self._seen[self._num_seen] = token_id
            self._num_seen += 1
            self._is_seen[token_id] = True
        self._num_in_output[token_id] += 1

    def seen_ids(self) -> Ids:
        """Ids in prompt or output, each once, in any order."""
        return self._seen[: self._num_seen]

    def apply(self, params: SamplingParams, ids: Ids, values: Logits) -> None:
        """Penalise the logits of some tokens, in place; others than these are not touched."""
        if params.repetition_penalty != 1:
            factor = np.float32(params.repetition_penalty)
            scaled = np.where(values > 0, values / factor, values * factor)
            np.copyto(values, scaled, where=self._is_seen[ids])
        counts = self._num_in_output[ids].astype(np.float32)
        if params.frequency_penalty != 0:
            values -= np.float32(params.frequency_penalty) * counts
        if params.presence_penalty != 0:
            values -= np.float32(params.presence_penalty) * (counts > 0)


def edits_of(
    logits: Logits,
    params: SamplingParams,
    *,
    num_generated: int,
    penalties: PenaltyState | None,
    eos_token_id: int,
    allowed: Mask | None = None,
) -> Edits | None:
    """What changes a row before temperature, in this order, each step rounded to float32:

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
        None if nothing applies.

    Raises:
        ValueError: ``penalties`` is missing although needed, or ``allowed`` is of another size.
    """
    if allowed is not None and allowed.size != logits.size:
        raise ValueError(f"allowed: {logits.size} tokens expected, got {allowed.size}")
    ends = _ends(params, num_generated, eos_token_id, allowed)
    seen: Ids = np.empty(0, dtype=np.int64)
    if needs_penalties(params):
        if penalties is None:
            raise ValueError("penalties must be given: the parameters ask for them")
        seen = penalties.seen_ids()
    biased = np.fromiter(params.logit_bias, dtype=np.int64)
    parts = [part for part in (seen, biased, ends) if part.size]
    if not parts and allowed is None:
        return None
    ids = seen if not parts else parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))
    values = logits[ids]
    if allowed is not None:
        values[~allowed[ids]] = -np.inf
    if penalties is not None and seen.size:
        penalties.apply(params, ids, values)
    if params.logit_bias:
        at = slice(None) if len(parts) == 1 else np.searchsorted(ids, biased)
        values[at] += np.fromiter(params.logit_bias.values(), dtype=np.float32)
    if ends.size:
        values[np.isin(ids, ends)] = -np.inf
    return Edits(None if allowed is None else np.ascontiguousarray(allowed), ids, values)


def _ends(
    params: SamplingParams, num_generated: int, eos_token_id: int, allowed: Mask | None
) -> Ids:
    """Tokens that must not be drawn yet."""
    ends = [eos_token_id, *params.stop_token_ids] if num_generated < params.min_tokens else []
    if allowed is not None and params.ignore_eos:
        ends.append(eos_token_id)
    found = np.array(ends, dtype=np.int64)
    if not ends or allowed is None or _leaves_any(allowed, found):
        return found
    return found[:0]


def _leaves_any(allowed: Mask, without: Ids) -> bool:
    num_lost = int(np.count_nonzero(allowed[np.unique(without)]))
    return int(np.count_nonzero(allowed)) > num_lost
