"""What an answer must obey besides its sampling parameters. Values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class GrammarStart(enum.Enum):
    """Where the grammar begins to hold."""

    ANSWER = "answer"  # with the first token that is no reasoning
    CALL = "call"  # after the first [TOOL_CALLS]; before it the model is free


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """A grammar and a limit of reasoning, for every choice of a request."""

    grammar: str = ""  # llguidance's JSON of grammars; empty: none
    start: GrammarStart = GrammarStart.ANSWER
    may_think: bool = False  # the answer may open with [THINK]
    is_thinking: bool = False  # the prompt ends inside an open [THINK]
    has_tools: bool = False  # [TOOL_CALLS] ends reasoning
    max_thinking_tokens: int | None = None  # between the marks; then [/THINK] follows
