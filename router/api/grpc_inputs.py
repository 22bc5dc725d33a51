"""gRPC requests as the frontend's inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np

from galerne.errors import InvalidRequestError
from galerne.v1 import inference_pb2 as pb
from router.api.inputs import ChatCompletionInput, GenerateInput, Resumable, SamplingFields
from router.api.output_format import json_text_format
from router.api.resume import ResumePoint
from router.chat.encode import ChatInput
from router.chat.tool_choice import ToolChoice, ToolUse
from router.guidance.formats import (
    JSON_OBJECT,
    FormatKind,
    OutputFormat,
    choice_format,
    schema_format,
    text_format,
)

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_SCALARS = (
    "top_k",
    "seed",
    "min_tokens",
    "max_tokens",
    "ignore_eos",
    "n",
    "logprobs",
    "prompt_logprobs",
    "speculative",
)


def sampling_fields(message: pb.SamplingParams) -> SamplingFields:
    """The fields that are set."""
    names = [name for name in (*_FLOATS, *_SCALARS) if message.HasField(name)]
    values = {name: getattr(message, name) for name in names}
    values |= {name: _decimal(values[name]) for name in _FLOATS if name in values}
    fields = cast(SamplingFields, values)
    if message.logit_bias:
        fields["logit_bias"] = {token: _decimal(b) for token, b in message.logit_bias.items()}
    if message.stop:
        fields["stop"] = tuple(message.stop)
    if message.stop_token_ids:
        fields["stop_token_ids"] = tuple(message.stop_token_ids)
    return fields


def output_format(message: pb.SamplingParams) -> OutputFormat | None:
    """The format of the answer; None for free text.

    Raises:
        InvalidRequestError: It is none.
    """
    asked = message.structured_output
    kind = asked.WhichOneof("format")
    field = f"sampling.structured_output.{kind}"
    match kind:
        case "json_object":
            return schema_format(JSON_OBJECT, field) if asked.json_object else None
        case "json_schema":
            return json_text_format(asked.json_schema, field)
        case "choices":
            return choice_format(list(asked.choices.choice), field)
        case "regex" | "grammar":
            return text_format(FormatKind(kind), getattr(asked, kind), field)
    return None


def thinking_budget(message: pb.SamplingParams) -> int | None:
    """Most tokens of reasoning; None: no limit."""
    has_one = message.HasField("thinking_token_budget")
    return message.thinking_token_budget if has_one else None


def tool_choice(message: pb.ChatRequest) -> ToolChoice:
    """Which tools the model may, or must, call.

    Raises:
        InvalidRequestError: The mode is none.
    """
    choice = message.tool_choice
    if choice.WhichOneof("choice") == "function":
        return ToolChoice(use=ToolUse.REQUIRED, function=choice.function)
    try:
        return ToolChoice(use=ToolUse(choice.mode or "auto"))
    except ValueError as error:
        problem = "must be auto, none or required"
        raise InvalidRequestError("tool_choice.mode", problem) from error


def generate_input(message: pb.GenerateRequest, owner: bytes = b"") -> GenerateInput:
    """What Generate asks for; ``owner`` stands for the client's key.

    Raises:
        InvalidRequestError: There is no prompt.
    """
    kind = message.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequestError("prompt", "must be text or token_ids")
    return GenerateInput(
        prompt=message.text if kind == "text" else tuple(message.token_ids.ids),
        images=tuple(message.images),
        **_of_any_request(message, owner),
    )


def chat_input(message: pb.ChatRequest, owner: bytes = b"") -> ChatCompletionInput:
    """What Chat asks for; ``owner`` stands for the client's key.

    Raises:
        InvalidRequestError: A part is empty, or a tool's schema is no JSON object.
    """
    if message.sampling.HasField("prompt_logprobs"):
        raise InvalidRequestError("sampling.prompt_logprobs", "Chat has no place for them")
    effort = message.reasoning_effort if message.HasField("reasoning_effort") else None
    choice, fields = tool_choice(message), _of_any_request(message, owner)
    output = fields["output"]
    tools = [_tool(t, f"tools[{i}]") for i, t in enumerate(message.tools)]
    has_parallel = message.HasField("parallel_tool_calls")
    return ChatCompletionInput(
        chat=ChatInput(
            messages=[_message(m, f"messages[{i}]") for i, m in enumerate(message.messages)],
            tools=None if choice.use is ToolUse.NONE else tools or None,
            reasoning_effort=effort,
            continue_final_message=message.continue_final_message,
            answer_schema=None if output is None else output.schema,
        ),
        tool_choice=choice,
        parallel_tool_calls=message.parallel_tool_calls or not has_parallel,
        **fields,
    )


class _Fields(TypedDict):
    """What ``GenerateInput`` and ``ChatCompletionInput`` have in common."""

    sampling: SamplingFields
    output: OutputFormat | None
    thinking_token_budget: int | None
    request_id: str | None
    model: str
    cache_salt: str
    resumable: Resumable | None
    priority: int
    timeout_s: float | None


def _of_any_request(message: pb.GenerateRequest | pb.ChatRequest, owner: bytes) -> _Fields:
    return {
        "sampling": sampling_fields(message.sampling),
        "output": output_format(message.sampling),
        "thinking_token_budget": thinking_budget(message.sampling),
        "request_id": message.request_id if message.HasField("request_id") else None,
        "model": message.model,
        "cache_salt": message.cache_salt,
        "resumable": Resumable(owner) if message.resumable else None,
        "priority": message.priority,
        "timeout_s": message.timeout_s if message.HasField("timeout_s") else None,
    }


def resume_points(message: pb.ResumeRequest) -> list[ResumePoint]:
    """How far the client got with each choice."""
    return [
        ResumePoint(point.offset, point.events if point.HasField("events") else None)
        for point in message.points
    ]


def _decimal(value: float) -> float:
    """The shortest decimal that means this float32, so that 0.7 is what HTTP takes for 0.7."""
    return float(str(np.float32(value)))


def _message(message: pb.ChatMessage, field: str) -> dict[str, Any]:
    shaped: dict[str, Any] = {"role": message.role, "content": _content(message.content, field)}
    if message.tool_calls:
        shaped["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.role == "assistant" and not message.content:
        shaped["content"] = None
    if message.tool_call_id:
        shaped["tool_call_id"] = message.tool_call_id
    if message.name:
        shaped["name"] = message.name
    return shaped


def _content(parts: Sequence[pb.ContentPart], field: str) -> str | list[dict[str, Any]]:
    if all(part.WhichOneof("part") == "text" for part in parts) and len(parts) <= 1:
        return "".join(part.text for part in parts)
    return [_part(part, f"{field}.content[{i}]") for i, part in enumerate(parts)]


def _part(part: pb.ContentPart, field: str) -> dict[str, Any]:
    match part.WhichOneof("part"):
        case "text":
            return {"type": "text", "text": part.text}
        case "thinking":
            return {"type": "thinking", "thinking": part.thinking}
        case "image":
            return {"type": "image_url", "image_url": part.image}
        case "image_url":
            return {"type": "image_url", "image_url": {"url": part.image_url}}
        case _:
            raise InvalidRequestError(field, "must be text, image, image_url or thinking")


def _call(call: pb.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: pb.Tool, field: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    try:
        schema = json.loads(tool.parameters_json_schema or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{field}.parameters_json_schema", f"no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{field}.parameters_json_schema", "must be a JSON object")
    function |= {"parameters": schema, "strict": tool.strict}
    return {"type": "function", "function": function}
