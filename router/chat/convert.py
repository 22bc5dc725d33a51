"""OpenAI-shaped messages and tools as mistral-common's, with every refusal placed.

Image URLs never reach mistral-common, which would fetch or open them: each is replaced by its
number in a list of sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_common.protocol.instruct.converters import convert_openai_messages
from mistral_common.protocol.instruct.messages import ChatMessage
from mistral_common.protocol.instruct.tool_calls import Tool, ToolCall

from galerne.errors import InvalidRequestError
from router.chat.refusals import refused_as

_ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLES_WITH_IMAGES = ("user", "tool")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of a request before it is read: where it is, or its file."""

    place: str | bytes
    field: str


def convert_messages(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[ChatMessage], list[ImageSource]]:
    """Messages for mistral-common, and the images they refer to by number.

    Raises:
        InvalidRequestError: A message has not the shape of one; names it.
    """
    sources: list[ImageSource] = []
    converted = [
        _convert_message(message, f"messages[{i}]", sources) for i, message in enumerate(messages)
    ]
    return converted, sources


def convert_tools(tools: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """Tools for mistral-common.

    Raises:
        InvalidRequestError: A tool has not the shape of one; names it.
    """
    converted = []
    for index, tool in enumerate(tools):
        field = f"tools[{index}]"
        if not isinstance(tool, Mapping):
            raise InvalidRequestError(field, "must be an object")
        with refused_as(field):
            converted.append(Tool.from_openai(dict(tool)))
    return converted


def _convert_message(
    message: Mapping[str, Any], field: str, sources: list[ImageSource]
) -> ChatMessage:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(field, "must be an object")
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidRequestError(f"{field}.role", f"must be one of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [
            _convert_part(part, role, f"{field}.content[{i}]", sources)
            for i, part in enumerate(content)
        ]
        message = {**message, "content": parts}
    elif not isinstance(content, str) and (content is not None or role != "assistant"):
        raise InvalidRequestError(f"{field}.content", "must be a string or a list of parts")
    if role == "assistant":
        _check_assistant(message, field)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise InvalidRequestError(f"{field}.tool_call_id", "must be a string")
    with refused_as(field):
        return convert_openai_messages([dict(message)])[0]


def _convert_part(
    part: Any,  # noqa: ANN401 - whatever the client's JSON holds
    role: str,
    field: str,
    sources: list[ImageSource],
) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise InvalidRequestError(field, "must be an object")
    match part.get("type"):
        case "text" | "thinking" as kind:
            if not isinstance(part.get(kind), str):
                raise InvalidRequestError(f"{field}.{kind}", "must be a string")
            if kind == "thinking" and role in _ROLES_WITH_IMAGES:
                raise InvalidRequestError(field, f"thinking cannot be in a {role} message")
            return dict(part)
        case "image_url":
            if role not in _ROLES_WITH_IMAGES:
                raise InvalidRequestError(field, f"an image cannot be in a {role} message")
            return _convert_image(part, f"{field}.image_url", sources)
        case _:
            raise InvalidRequestError(f"{field}.type", "must be text, image_url or thinking")


def _convert_image(
    part: Mapping[str, Any], field: str, sources: list[ImageSource]
) -> dict[str, Any]:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    if not isinstance(url, str | bytes):  # bytes: the file itself, from gRPC
        raise InvalidRequestError(field, "must be a URL, or an object with a url")
    number = str(len(sources))
    sources.append(ImageSource(url, f"{field}.url" if isinstance(image, Mapping) else field))
    replaced = {**image, "url": number} if isinstance(image, Mapping) else number
    return {**part, "image_url": replaced}


def _check_assistant(message: Mapping[str, Any], field: str) -> None:
    for key in ("reasoning_content", "reasoning"):
        if not isinstance(message.get(key), str | None):
            raise InvalidRequestError(f"{field}.{key}", "must be a string")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequestError(f"{field}.tool_calls", "must be a list")
    for index, call in enumerate(calls):
        with refused_as(f"{field}.tool_calls[{index}]"):
            ToolCall.from_openai(call)
