"""Which tools a model may, or must, call. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from galerne.errors import InvalidRequestError

_FIELD = "tool_choice"


class ToolUse(enum.Enum):
    """Whether the model calls tools."""

    AUTO = "auto"  # it decides
    NONE = "none"  # it sees none
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """What a client asks for."""

    use: ToolUse = ToolUse.AUTO
    function: str | None = None  # with REQUIRED: the one to be called; None: any


def read_tool_choice(value: object) -> ToolChoice:
    """``tool_choice`` in OpenAI's shape; Mistral's ``any`` means required.

    Raises:
        InvalidRequestError: It is none.
    """
    match value:
        case None:
            return ToolChoice()
        case "auto" | "none" | "required":
            return ToolChoice(use=ToolUse(value))
        case "any":
            return ToolChoice(use=ToolUse.REQUIRED)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolChoice(use=ToolUse.REQUIRED, function=name)
        case {"type": "function", "name": str(name)}:  # of the responses API
            return ToolChoice(use=ToolUse.REQUIRED, function=name)
    problem = 'must be auto, none, required or {"type": "function", "function": {"name": ...}}'
    raise InvalidRequestError(_FIELD, problem)


def check_tool_choice(choice: ToolChoice, tools: list[Mapping[str, Any]]) -> None:
    """Refuse a choice that these tools do not allow; the tools have been checked.

    Raises:
        InvalidRequestError: A call is wanted and there is no such tool.
    """
    if choice.use is ToolUse.REQUIRED and not tools:
        raise InvalidRequestError(_FIELD, "needs tools")
    names = [tool["function"]["name"] for tool in tools]
    if choice.function is not None and choice.function not in names:
        raise InvalidRequestError(_FIELD, f"there is no tool {choice.function[:64]!r}")
