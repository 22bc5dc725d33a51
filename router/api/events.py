"""What a request's stream consists of, the same for gRPC and HTTP."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from router.chat.parse import ContentDelta, ReasoningDelta, ToolArgumentsDelta
from router.engine.request import FinishReason, TokenLogprobs


class EndReason(enum.Enum):
    """Why a choice ended, as a client is told; the value is OpenAI's word."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    TOOL_CALLS = "tool_calls"  # chat only

    @classmethod
    def of(cls, reason: FinishReason) -> EndReason:
        """The engine's reason."""
        return cls(reason.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A gateway has begun with the request. Always the first event."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """One entry per prompt token from the second on."""

    positions: tuple[TokenLogprobs | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensDelta:
    """New tokens of a choice; in a chat, ``text`` is empty and a ``ChatDelta`` follows."""

    choice: int
    offset: int  # of the first token here among the choice's tokens
    token_ids: tuple[int, ...]
    text: str = ""  # what became final; may lag behind an open character or stop string
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool call begins; the server invented its id."""

    index: int
    id: str
    name: str


ChatPiece: TypeAlias = ReasoningDelta | ContentDelta | ToolCallStarted | ToolArgumentsDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDelta:
    """New output of a choice of a chat."""

    choice: int
    piece: ChatPiece


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A choice has ended; exactly one for every choice."""

    choice: int
    reason: EndReason
    stop: str = ""  # the stop string that matched
    stop_token_id: int | None = None
    error: str = ""  # with ERROR
    error_status: str = "INTERNAL"  # with ERROR: name of a gRPC status code


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of the whole request. Always the last event."""

    prompt_tokens: int = 0
    completion_tokens: int = 0  # over all choices
    cached_tokens: int = 0  # of the prompt, taken from the prefix cache
    reasoning_tokens: int = 0  # between [THINK] and [/THINK]; chat only

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


Event: TypeAlias = Accepted | PromptLogprobs | TokensDelta | ChatDelta | Finished | Usage
