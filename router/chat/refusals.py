"""What mistral-common refuses, as an error of ours that names the field."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mistral_common.exceptions import (
    InvalidRequestException,
    InvalidToolException,
    InvalidToolSchemaException,
    MistralCommonException,
    TokenizerException,
)
from mistral_common.protocol.instruct.messages import ChatMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from pydantic import ValidationError

from galerne.errors import InvalidRequestError

_MAX_PROBLEM_CHARACTERS = 400

# mistral-common checks much by assert or by what Python raises on a wrong type. A RecursionError
# comes from JSON that is nested too deeply.
REFUSALS = (
    MistralCommonException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RecursionError,
)


@contextmanager
def refused_as(field: str) -> Iterator[None]:
    """Turn a refusal of mistral-common inside the block into one that names ``field``.

    Raises:
        InvalidRequestError: Anything of ``REFUSALS`` was raised inside.
    """
    try:
        yield
    except REFUSALS as error:
        raise InvalidRequestError(field, problem_of(error)) from error


def problem_of(error: BaseException) -> str:
    """One short sentence; validation errors without the values they saw."""
    match error:
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            text = f"{where}: {first['msg']}" if where else first["msg"]
        case MistralCommonException():
            text = error.message
        case KeyError():
            text = f"{error.args[0]} is missing"
        case RecursionError():
            text = "is nested too deeply"
        case _:
            text = str(error)
    return (text or "is not allowed")[:_MAX_PROBLEM_CHARACTERS]


def field_of(
    error: BaseException, request: ChatCompletionRequest, version: TokenizerVersion
) -> str:
    """The field of ``request`` behind a refusal, as exactly as it can be told.

    The validator names no message. Without its rules about the end of a conversation, the
    beginnings that it refuses are those that hold the culprit, so bisection finds it.
    """
    match error:
        case InvalidToolException() | InvalidToolSchemaException():
            return _tool_field(request, version)
        case InvalidRequestException():
            return "reasoning_effort"  # the only setting that a chat request has
        case TokenizerException():
            return "messages"  # comes after validation: a turn with nothing in it
        case MistralCommonException():
            return _message_field(request.messages, version)
        case _:
            return "messages"


def _tool_field(request: ChatCompletionRequest, version: TokenizerVersion) -> str:
    validator = get_validator(version, ValidationMode.agnostic)
    for index, tool in enumerate(request.tools or []):
        alone = ChatCompletionRequest(messages=[UserMessage(content="")], tools=[tool])
        try:
            validator.validate_request(alone)
        except MistralCommonException:
            return f"tools[{index}]"
    return "tools"


def _message_field(messages: Sequence[ChatMessage], version: TokenizerVersion) -> str:
    validator = get_validator(version, ValidationMode.agnostic)

    def is_refused(num_messages: int) -> bool:
        try:
            validator.validate_messages(list(messages[:num_messages]))
        except MistralCommonException:
            return True
        return False

    if not messages:
        return "messages"
    if not is_refused(len(messages)):
        return f"messages[{len(messages) - 1}]"  # a rule about the last one
    can_start = messages[0].role in ("user", "system")  # alone, others are refused for that
    if can_start and is_refused(1):
        return "messages[0]"
    candidates = range(2, len(messages) + 1)
    if not candidates:
        return "messages[0]"
    return f"messages[{candidates[bisect_left(candidates, True, key=is_refused)] - 1}]"
