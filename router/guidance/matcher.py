"""llguidance's matcher, as a ``router.engine.guide.Matcher``."""

from __future__ import annotations

import llguidance
import numpy as np

from router.engine.guide import GuideError, Marks, Mask


class GrammarMatcher:
    """A place in a grammar."""

    def __init__(self, place: llguidance.LLMatcher, marks: Marks) -> None:
        """``place`` is taken: nobody else may move it."""
        self._place = place
        self._marks = marks
        self._is_ended = False

    @property
    def is_ended(self) -> bool:
        """See ``Matcher``."""
        return self._is_ended

    def allowed(self) -> Mask:
        """See ``Matcher``."""
        packed = np.frombuffer(self._place.compute_bitmask(), dtype=np.uint8)
        if self._place.is_error():
            raise GuideError(self._place.get_error())
        mask = np.zeros_like(self._marks.is_text)
        bits = np.unpackbits(packed, count=min(packed.size * 8, mask.size), bitorder="little")
        mask[: bits.size] = bits
        return mask

    def advance(self, token_id: int) -> None:
        """See ``Matcher``."""
        if token_id == self._marks.eos:
            self._is_ended = True  # the library counts it among the tokens of some grammars only
        else:
            self._place.consume_token(token_id)

    def clone(self) -> GrammarMatcher:
        """See ``Matcher``."""
        other = GrammarMatcher(self._place.deep_copy(), self._marks)
        other._is_ended = self._is_ended
        return other
