"""Input items of /v1/responses as messages of a chat. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from galerne.errors import InvalidRequestError

_ROLES = ("user", "assistant", "system", "developer")
_MESSAGE = re.compile(r"messages\[(\d+)\]")
_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


@dataclass(slots=True)
class Conversation:
    """Messages of a chat, and the field of the body that each began with."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)

    def renamed(self, chat_field: str) -> str:
        """The body's name for a field of the chat."""
        if chat_field == "messages":
            return "input"
        found = _MESSAGE.match(chat_field)
        if found is None or int(found[1]) >= len(self.origins):
            return chat_field
        return self.origins[int(found[1])] + chat_field[found.end() :]

    def add(self, message: dict[str, Any], origin: str) -> None:
        """One message more."""
        self.messages.append(message)
        self.origins.append(origin)

    def turn(self, origin: str) -> dict[str, Any]:
        """The assistant's message that goes on: reasoning, text and calls of a turn are one."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add({"role": "assistant", "content": None}, origin)
        return self.messages[-1]


def conversation_of(
    given: str | Sequence[Mapping[str, Any]], instructions: str | None
) -> Conversation:
    """The messages that ``input`` and ``instructions`` stand for.

    Raises:
        InvalidRequestError: An item has not the shape of one; names it.
    """
    made = Conversation()
    if instructions:
        made.add({"role": "system", "content": instructions}, "instructions")
    if isinstance(given, str):
        made.add({"role": "user", "content": given}, "input")
        return made
    for index, item in enumerate(given):
        _add_item(made, item, f"input[{index}]")
    return made


def _add_item(made: Conversation, item: Mapping[str, Any], name: str) -> None:
    match item.get("type") or "message":
        case "message":
            _add_message(made, item, name)
        case "reasoning":
            _add_reasoning(made, item, name)
        case "function_call":
            call = {
                "id": _text(item, "call_id", name),
                "type": "function",
                "function": {
                    "name": _text(item, "name", name),
                    "arguments": _text(item, "arguments", name),
                },
            }
            made.turn(name).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _parts(output, f"{name}.output")
            call_id = _text(item, "call_id", name)
            made.add({"role": "tool", "tool_call_id": call_id, "content": content}, name)
        case _:
            kinds = "message, reasoning, function_call or function_call_output"
            raise InvalidRequestError(f"{name}.type", f"must be {kinds}")


def _add_message(made: Conversation, item: Mapping[str, Any], name: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise InvalidRequestError(f"{name}.role", f"must be one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        content = _parts(content, f"{name}.content")
    if role != "assistant":
        made.add({"role": role, "content": content}, name)
        return
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    last = made.messages[-1] if made.messages else None
    if last is not None and last["role"] == "assistant" and "tool_calls" not in last:
        last["content"] = [*(last["content"] or ()), *parts]
    else:
        made.add({"role": "assistant", "content": parts}, name)


def _add_reasoning(made: Conversation, item: Mapping[str, Any], name: str) -> None:
    """What the model thought in an earlier turn; without its text there is nothing to add."""
    content = item.get("content") or []
    if not isinstance(content, list):
        raise InvalidRequestError(f"{name}.content", "must be a list of parts")
    thoughts = []
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"{name}.content[{index}]", "must be a reasoning_text")
        thoughts.append({"type": "thinking", "thinking": part["text"]})
    if thoughts:
        turn = made.turn(name)
        turn["content"] = [*(turn["content"] or ()), *thoughts]


def _parts(content: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise InvalidRequestError(name, "must be a string or a list of parts")
    return [_part(part, f"{name}[{index}]") for index, part in enumerate(content)]


def _part(part: object, name: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise InvalidRequestError(name, "must be an object")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, _TEXT_PARTS[kind], name)}
    if kind != "input_image":
        raise InvalidRequestError(f"{name}.type", "must be input_text, output_text or input_image")
    if part.get("file_id") is not None:
        raise InvalidRequestError(f"{name}.file_id", "no files are kept here; send an image_url")
    return {"type": "image_url", "image_url": _text(part, "image_url", name)}


def _text(item: Mapping[str, Any], key: str, name: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name}.{key}", "must be a string")
    return value
