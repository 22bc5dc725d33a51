"""Prompt lookup: what followed the last time the newest tokens stood here, may follow again."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence

from router.engine.plan import StepPlan
from router.engine.sequence import Sequence

_SIZES = (4, 3, 2)  # tokens that must be alike, the longest tried first
_LOOK_BACK = 4096  # tokens of a prompt that are indexed


class NgramIndex:
    """Where the n-grams of one growing sequence ended last."""

    def __init__(self, num_known: int) -> None:
        """``num_known``: tokens that are there already; only the last of them are indexed."""
        self._end_by_ngram: dict[tuple[int, ...], int] = {}
        self._num_indexed = max(0, num_known - _LOOK_BACK)

    def following(self, token_ids: AbstractSequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that followed the newest tokens' last occurrence before.

        Where that occurrence overlaps the end, what it began is taken to go round.
        """
        length = len(token_ids)
        # The n-grams that end with the last token are looked for, not yet indexed.
        for end in range(self._num_indexed + 1, length):
            for size in _SIZES:
                if size <= end:
                    self._end_by_ngram[tuple(token_ids[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, length - 1)
        for size in _SIZES:
            last = self._end_by_ngram.get(tuple(token_ids[-size:])) if size <= length else None
            if last is not None:
                period = length - last
                return tuple(token_ids[last + i % period] for i in range(most))
        return ()


class NgramSource:
    """Implements ``DraftSource`` without a model."""

    name = "ngram"
    follows = False

    def __init__(self) -> None:
        self._indices: dict[Sequence, NgramIndex] = {}

    def reach(self, sequence: Sequence, most: int) -> int:
        """See ``DraftSource``."""
        return len(self._following(sequence, most))

    def draft(
        self, sequences: AbstractSequence[Sequence], most: int
    ) -> Mapping[Sequence, tuple[int, ...]]:
        """See ``DraftSource``."""
        found = {sequence: self._following(sequence, most) for sequence in sequences}
        return {sequence: tokens for sequence, tokens in found.items() if tokens}

    def follow(self, plan: StepPlan) -> None:
        """See ``DraftSource``: tokens are all that it needs."""

    def pass_over(self, plan: StepPlan) -> None:
        """See ``DraftSource``."""

    def forget_ended(self) -> None:
        """See ``DraftSource``."""
        for sequence in [s for s in self._indices if s.is_finished]:
            del self._indices[sequence]

    def _following(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = NgramIndex(sequence.num_tokens)
        return index.following(sequence.token_ids, most)
