"""Which tokens an answer may go on with: reasoning first, then what a grammar allows.

A guide is a function of the rules and the tokens so far, so it is rebuilt by replaying them, on any
gateway. It says nothing about how a token is drawn: whoever samples asks ``allowed`` for the next
position, and tells every token that was taken with ``advance``. Whoever looks ahead (drafts) does
so on a ``clone``.
"""

from __future__ import annotations

import enum
from copy import copy
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from router.engine.rules import AnswerRules, GrammarStart

Mask: TypeAlias = npt.NDArray[np.bool_]  # [V]; read only


class GuideError(GalerneError):
    """A grammar cannot be followed any further: it has become too costly."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the grammar cannot be followed: {self.reason}"


class Matcher(Protocol):
    """A place in a grammar. Belongs to one choice."""

    @property
    def is_ended(self) -> bool:
        """Whether the end token has been taken."""
        ...

    def allowed(self) -> Mask:
        """Tokens that may follow, the end token among them where the grammar may end.

        Raises:
            GuideError: It cannot be told.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Take a token; one that was not allowed makes ``allowed`` raise."""
        ...

    def clone(self) -> Matcher:
        """The same place, to go on from independently."""
        ...


class Marks(NamedTuple):
    """Tokens with a meaning of their own; None where the tokenizer has none."""

    begin_think: int | None
    end_think: int | None
    tool_calls: int | None
    eos: int
    is_text: Mask  # tokens that stand for text


class _Phase(enum.Enum):
    OPENING = enum.auto()  # nothing is there yet; reasoning may begin, or what the grammar says
    THINKING = enum.auto()
    FREE = enum.auto()  # no grammar holds here
    GUIDED = enum.auto()  # the grammar holds up to the end


class Guide:
    """What one choice may say next. Not thread-safe."""

    def __init__(self, rules: AnswerRules, marks: Marks, matcher: Matcher | None) -> None:
        """``matcher`` stands at the start of the rules' grammar; None if they have none."""
        self._rules = rules
        self._marks = marks
        self._matcher = matcher
        self._num_thinking = 0
        self._phase = self._first_phase()

    @property
    def is_ended(self) -> bool:
        """Whether the grammar has come to its end: nothing may follow."""
        return self._phase is _Phase.GUIDED and self._matcher is not None and self._matcher.is_ended

    def allowed(self) -> Mask | None:
        """Tokens that may come next; None: all.

        Raises:
            GuideError: The grammar cannot be followed any further.
        """
        match self._phase:
            case _Phase.THINKING if self._is_used_up:
                return self._only(self._marks.end_think)
            case _Phase.THINKING:
                return self._thinking_mask() if self._is_whole_answer else None
            case _Phase.OPENING if not self._is_used_up:
                return self._grammar_mask() | self._only(self._marks.begin_think)
            case _Phase.FREE:
                return ~self._only(self._marks.begin_think) if self._is_used_up else None
        return self._grammar_mask()

    def advance(self, token_id: int) -> None:
        """Take the next token of the choice."""
        marks = self._marks
        match self._phase:
            case _Phase.OPENING | _Phase.FREE if token_id == marks.begin_think:
                self._phase = _Phase.THINKING
            case _Phase.OPENING:
                self._phase = _Phase.GUIDED
                self._advance_matcher(token_id)
            case _Phase.THINKING:
                self._think(token_id)
            case _Phase.FREE if token_id == marks.tool_calls:
                self._begin_call()
            case _Phase.GUIDED:
                self._advance_matcher(token_id)

    def clone(self) -> Guide:
        """The same place, to go on from independently."""
        other = copy(self)
        if self._matcher is not None:
            other._matcher = self._matcher.clone()
        return other

    @property
    def _is_whole_answer(self) -> bool:
        """Whether a grammar governs all that is no reasoning."""
        return self._matcher is not None and self._rules.start is GrammarStart.ANSWER

    @property
    def _is_used_up(self) -> bool:
        most = self._rules.max_thinking_tokens
        return most is not None and self._num_thinking >= most

    def _first_phase(self) -> _Phase:
        if self._rules.is_thinking:
            return _Phase.THINKING
        if not self._is_whole_answer:
            return _Phase.FREE
        return _Phase.OPENING if self._rules.may_think else _Phase.GUIDED

    def _think(self, token_id: int) -> None:
        marks = self._marks
        if token_id == marks.end_think or token_id == marks.eos:
            self._phase = _Phase.GUIDED if self._is_whole_answer else _Phase.FREE
        elif token_id == marks.tool_calls and self._rules.has_tools:
            self._begin_call()
        else:
            self._num_thinking += 1

    def _begin_call(self) -> None:
        is_guided = self._matcher is not None and self._rules.start is GrammarStart.CALL
        self._phase = _Phase.GUIDED if is_guided else _Phase.FREE

    def _grammar_mask(self) -> Mask:
        assert self._matcher is not None, "these phases have a grammar"
        return self._matcher.allowed()

    def _advance_matcher(self, token_id: int) -> None:
        if self._matcher is not None:
            self._matcher.advance(token_id)

    def _thinking_mask(self) -> Mask:
        """Text, and the end of reasoning: one that ended otherwise would leave no answer."""
        return self._marks.is_text | self._only(self._marks.end_think)

    def _only(self, token_id: int | None) -> Mask:
        mask = np.zeros_like(self._marks.is_text)
        if token_id is not None:
            mask[token_id] = True
        return mask
