"""The body of POST /v1/responses, and the chat that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from galerne.errors import InvalidRequestError
from router.api.neutral import check_unsupported
from router.api.responses_input import Conversation, conversation_of
from router.api.schemas import ChatCompletionBody, SharedBody, parse_object

_MAX_METADATA, _MAX_KEY_CHARS, _MAX_VALUE_CHARS = 16, 64, 512  # OpenAI's limits
_LOGPROBS = "message.output_text.logprobs"
# What else may be asked to be included: reasoning is given in plain text, there is nothing to add.
_INCLUDED_ANYWAY = ("reasoning.encrypted_content",)
_STATELESS = "nothing is kept here: send the whole conversation as input"
_REFUSED = {
    "store": (True, "nothing is kept here: send store: false"),
    "background": (True, "is not supported"),
}
_FIELD_BY_CHAT_FIELD = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "top_logprobs",
}


class Reasoning(BaseModel):
    """``reasoning``; a summary is not made, the reasoning itself is given."""

    model_config = ConfigDict(extra="ignore")

    effort: str | None = None
    summary: str | None = None


class TextConfig(BaseModel):
    """``text``."""

    model_config = ConfigDict(extra="ignore")

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesBody(SharedBody):
    """POST /v1/responses. Stateless: what refers to something kept is refused."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    stream_options: dict[str, Any] | None = None  # obfuscation is never added
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    truncation: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def has_logprobs(self) -> bool:
        """Whether log probabilities are wanted."""
        return bool(self.top_logprobs) or _LOGPROBS in (self.include or ())

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequestError: Names the field.
        """
        check_unsupported(self.model_extra or {}, 1)
        for field, (value, problem) in _REFUSED.items():
            if getattr(self, field) is value:
                raise InvalidRequestError(field, problem)
        for field in ("previous_response_id", "conversation", "prompt"):
            if getattr(self, field) is not None:
                raise InvalidRequestError(field, _STATELESS)
        if self.truncation not in (None, "disabled"):
            raise InvalidRequestError("truncation", "is not supported, only disabled is")
        for index, name in enumerate(self.include or ()):
            if name != _LOGPROBS and name not in _INCLUDED_ANYWAY:
                raise InvalidRequestError(f"include[{index}]", f"{name[:50]!r} is not served")
        self._check_metadata()

    def _check_metadata(self) -> None:
        metadata = self.metadata or {}
        if len(metadata) > _MAX_METADATA:
            raise InvalidRequestError("metadata", f"must hold at most {_MAX_METADATA} pairs")
        for key, value in metadata.items():
            if len(key) > _MAX_KEY_CHARS or len(value) > _MAX_VALUE_CHARS:
                problem = f"keys have at most {_MAX_KEY_CHARS} characters, values "
                raise InvalidRequestError("metadata", f"{problem}{_MAX_VALUE_CHARS}")

    def to_chat(self) -> ResponsesChat:
        """The same as a chat.

        Raises:
            InvalidRequestError: A part of it is none that a chat could have; names it.
        """
        conversation = conversation_of(self.input, self.instructions)
        fields: dict[str, Any] = {name: getattr(self, name) for name in SharedBody.model_fields}
        fields |= {
            "messages": conversation.messages,
            "tools": _chat_tools(self.tools),
            "tool_choice": _chat_tool_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "max_completion_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning.effort if self.reasoning is not None else None,
            "response_format": _response_format(self.text),
            "logprobs": self.has_logprobs or None,
            "top_logprobs": self.top_logprobs if self.has_logprobs else None,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        try:
            return ResponsesChat(parse_object(ChatCompletionBody, told), conversation)
        except InvalidRequestError as error:
            raise renamed(error, conversation) from error


class ResponsesChat(NamedTuple):
    """A chat in place of a body, and where its messages come from."""

    body: ChatCompletionBody
    conversation: Conversation


def renamed(error: InvalidRequestError, conversation: Conversation) -> InvalidRequestError:
    """A refusal of the chat as one of the body that it was made from."""
    field = conversation.renamed(_FIELD_BY_CHAT_FIELD.get(error.field, error.field))
    if field.startswith("response_format"):
        rest = field.removeprefix("response_format").replace(".json_schema", "", 1)
        field = f"text.format{rest}"
    return error if field == error.field else InvalidRequestError(field, error.problem)


def _chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools in the chat's shape, where the function is an object of its own."""
    if tools is None:
        return None
    shaped = []
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise InvalidRequestError(f"tools[{index}].type", "must be function")
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        shaped.append({"type": "function", "function": function})
    return shaped


def _chat_tool_choice(choice: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if choice is None or isinstance(choice, str):
        return choice
    if choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    raise InvalidRequestError("tool_choice", "must be auto, none, required or a function")


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if text.format.get("type") != "json_schema":
        return text.format
    names = ("name", "description", "schema", "strict")
    schema = {name: text.format[name] for name in names if text.format.get(name) is not None}
    return {"type": "json_schema", "json_schema": schema}
