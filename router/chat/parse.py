"""The ids of an answer, read as reasoning, content and tool calls.

The shape of an answer (model reference, section 5):

    [THINK] reasoning [/THINK] content [TOOL_CALLS] name [ARGS] json [TOOL_CALLS] ... </s>

It is read on ids, never on text, so that a model which *writes* "[TOOL_CALLS]" calls nothing.
Models make mistakes; what then happens:

==========================================  =====================================================
text after [TOOL_CALLS] is no function name  it is content, as soon as that is certain
[TOOL_CALLS] without [ARGS]                  the text is content, once anything else begins
[ARGS] without a name                        nothing begins; the text after it is content
[TOOL_CALLS] inside reasoning                ends the reasoning
[THINK] inside reasoning, stray [/THINK]     no effect
[THINK] after content or arguments           reasoning begins again
text after </s> (the client ignores it)      content
any other special token                      no text; ends a name, else no effect
==========================================  =====================================================
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias, TypeVar

from router.chat.detokenize import Utf8Buffer
from router.chat.tokenizer import Tokenizer

# What mistral-common lets a client send back as the name of a called function, with white space
# around it forgiven. The second pattern: text that can still become such a name. Both are bounded,
# so that a model which repeats itself is not held back for long.
_NAME = re.compile(r"\s{0,16}([a-zA-Z0-9_-]{1,64})\s{0,16}")
_NAME_SO_FAR = re.compile(r"\s{0,16}[a-zA-Z0-9_-]{0,64}\s{0,16}")


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More text of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins; ``index`` counts the calls of the answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of the JSON arguments of call ``index``, as the model wrote them: perhaps no JSON."""

    index: int
    text: str


TextDelta: TypeAlias = ReasoningDelta | ContentDelta | ToolArgumentsDelta
OutputDelta: TypeAlias = TextDelta | ToolCallStart
_Start = TypeVar("_Start")  # of a tool call


class _State(enum.Enum):
    CONTENT = enum.auto()
    REASONING = enum.auto()
    CALL_NAME = enum.auto()
    CALL_ARGUMENTS = enum.auto()


class _Event(enum.Enum):
    """What a special token means here."""

    BEGIN_THINK = enum.auto()
    END_THINK = enum.auto()
    TOOL_CALLS = enum.auto()
    ARGS = enum.auto()
    EOS = enum.auto()
    OTHER = enum.auto()


# Where a token leads; the same state where a pair is missing.
_NEXT: dict[tuple[_State, _Event], _State] = {
    (_State.CONTENT, _Event.BEGIN_THINK): _State.REASONING,
    (_State.CONTENT, _Event.TOOL_CALLS): _State.CALL_NAME,
    (_State.REASONING, _Event.END_THINK): _State.CONTENT,
    (_State.REASONING, _Event.TOOL_CALLS): _State.CALL_NAME,
    (_State.REASONING, _Event.EOS): _State.CONTENT,
    (_State.CALL_NAME, _Event.BEGIN_THINK): _State.REASONING,
    (_State.CALL_NAME, _Event.END_THINK): _State.CONTENT,
    (_State.CALL_NAME, _Event.ARGS): _State.CALL_ARGUMENTS,
    (_State.CALL_NAME, _Event.EOS): _State.CONTENT,
    (_State.CALL_NAME, _Event.OTHER): _State.CONTENT,
    (_State.CALL_ARGUMENTS, _Event.BEGIN_THINK): _State.REASONING,
    (_State.CALL_ARGUMENTS, _Event.TOOL_CALLS): _State.CALL_NAME,
    (_State.CALL_ARGUMENTS, _Event.EOS): _State.CONTENT,
}


class OutputParser:
    """State machine over the ids of one answer. No input makes it raise.

    Over any split of the ids, the joined texts are the same. With ``parse_reasoning`` or
    ``parse_tools`` off, the tokens in question are special tokens without a meaning, and the text
    between them is content.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        parse_reasoning: bool = True,
        parse_tools: bool = True,
        starts_in_reasoning: bool = False,
    ) -> None:
        """``starts_in_reasoning``: the prompt ends inside an unclosed [THINK]."""
        self._tokenizer = tokenizer
        self._event_by_id = _events(tokenizer, parse_reasoning, parse_tools)
        is_reasoning = starts_in_reasoning and parse_reasoning
        self._state = _State.REASONING if is_reasoning else _State.CONTENT
        self._buffer = Utf8Buffer()
        self._name = ""
        self._num_calls = 0
        self._deltas: list[OutputDelta] = []

    @property
    def num_calls(self) -> int:
        """Tool calls begun so far."""
        return self._num_calls

    def push(self, token_ids: Iterable[int]) -> list[OutputDelta]:
        """Take the next ids; give what they complete, neighbours of one kind joined."""
        for token_id in token_ids:
            if self._tokenizer.is_special(token_id):
                self._step(self._event_by_id.get(token_id, _Event.OTHER))
            else:
                self._add_text(self._buffer.push(self._tokenizer.token_bytes(token_id)))
        return self._take()

    def finish(self) -> list[OutputDelta]:
        """Give what was held back: an incomplete character, the text of a call without [ARGS]."""
        self._add_text(self._buffer.finish())
        self._give_up_name()
        return self._take()

    def _step(self, event: _Event) -> None:
        self._add_text(self._buffer.finish())
        state = _NEXT.get((self._state, event), self._state)
        if self._state is _State.CALL_NAME:
            state = self._end_name(state)
        self._state = state

    def _end_name(self, state: _State) -> _State:
        """Close a name before ``state``; arguments need a name."""
        name = _NAME.fullmatch(self._name)
        if state is not _State.CALL_ARGUMENTS or name is None:
            self._give_up_name()
            return _State.CONTENT if state is _State.CALL_ARGUMENTS else state
        self._deltas.append(ToolCallStart(self._num_calls, name[1]))
        self._num_calls += 1
        self._name = ""
        return state

    def _give_up_name(self) -> None:
        text, self._name = self._name, ""
        if self._state is _State.CALL_NAME:
            self._state = _State.CONTENT
            self._add_text(text)

    def _add_text(self, text: str) -> None:
        if not text:
            return
        match self._state:
            case _State.CONTENT:
                self._deltas.append(ContentDelta(text))
            case _State.REASONING:
                self._deltas.append(ReasoningDelta(text))
            case _State.CALL_ARGUMENTS:
                self._deltas.append(ToolArgumentsDelta(self._num_calls - 1, text))
            case _State.CALL_NAME:
                self._name += text
                if _NAME_SO_FAR.fullmatch(self._name) is None:
                    self._give_up_name()

    def _take(self) -> list[OutputDelta]:
        deltas, self._deltas = self._deltas, []
        return list(joined(deltas))


def joined(deltas: Iterable[TextDelta | _Start]) -> Iterator[TextDelta | _Start]:
    """Join neighbours of one kind of text; between two calls' arguments there is a start."""
    for _, group in groupby(deltas, type):
        first, *rest = group
        if isinstance(first, TextDelta) and rest:
            texts = (delta.text for delta in rest if isinstance(delta, TextDelta))
            yield replace(first, text="".join((first.text, *texts)))
        else:
            yield first
            yield from rest


def _events(
    tokenizer: Tokenizer, parse_reasoning: bool, parse_tools: bool
) -> dict[int | None, _Event]:
    special = tokenizer.special
    events: dict[int | None, _Event] = {special.eos: _Event.EOS}
    if parse_reasoning:
        events[special.begin_think] = _Event.BEGIN_THINK
        events[special.end_think] = _Event.END_THINK
    if parse_tools:
        events[special.tool_calls] = _Event.TOOL_CALLS
        events[special.args] = _Event.ARGS
    return events
