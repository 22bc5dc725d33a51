"""Answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.api.collect import Collected, CollectedChoice
from router.api.events import (
    ChatDelta,
    ChatPiece,
    EndReason,
    Event,
    Finished,
    TokensDelta,
    ToolCallStarted,
    Usage,
)
from router.api.logprobs_json import chat_logprobs, prompt_logprobs
from router.chat.parse import ContentDelta, ReasoningDelta, ToolArgumentsDelta
from router.chat.tokenizer import Tokenizer
from router.engine.request import TokenLogprobs


def usage_json(usage: Usage) -> dict[str, Any]:
    """``usage``."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def end_json(end: Finished, eos_id: int) -> dict[str, Any]:
    """``finish_reason``, and vLLM's ``stop_reason``: the stop string or token that was asked for.

    Null where the model has ended by itself.
    """
    token_id = None if end.stop_token_id == eos_id else end.stop_token_id
    return {"finish_reason": end.reason.value, "stop_reason": end.stop or token_id}


def chat_completion(
    head: Mapping[str, Any], collected: Collected, tokenizer: Tokenizer, *, has_logprobs: bool
) -> dict[str, Any]:
    """A whole answer; ``head`` has what all answers begin with."""
    body: dict[str, Any] = {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": chat_logprobs(tokenizer, choice.logprobs) if has_logprobs else None,
                **end_json(choice.end, tokenizer.eos_id),
            }
            for index, choice in enumerate(collected.choices)
        ],
        "usage": usage_json(collected.usage),
    }
    if collected.prompt_logprobs:
        body["prompt_logprobs"] = prompt_logprobs(tokenizer, collected.prompt_logprobs)
    return body


def _message(choice: CollectedChoice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.content or (None if choice.calls else ""),
        "refusal": None,
    }
    if choice.reasoning:
        message |= _reasoning(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in choice.calls
        ]
    return message


class ChatChunks:
    """Turns a chat's events into the chunks of a stream."""

    def __init__(
        self,
        head: Mapping[str, Any],
        tokenizer: Tokenizer,
        *,
        has_logprobs: bool,
        includes_usage: bool,
    ) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        if includes_usage:
            self._head["usage"] = None
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._includes_usage = includes_usage
        self._logprobs: dict[int, list[TokenLogprobs]] = {}  # not sent yet, by choice

    def start(self, num_choices: int) -> list[dict[str, Any]]:
        """A chunk with the role for every choice."""
        role = {"role": "assistant", "content": ""}
        return [self._chunk(index, role) for index in range(num_choices)]

    def take(self, event: Event) -> list[dict[str, Any]]:
        """Chunks of one event; an end with an error gives none."""
        match event:
            case TokensDelta(choice=choice, logprobs=logprobs):
                if self._has_logprobs:
                    self._logprobs.setdefault(choice, []).extend(logprobs)
            case ChatDelta(choice=choice, piece=piece):
                return [self._chunk(choice, _delta(piece))]
            case Finished(choice=choice, reason=reason) if reason is not EndReason.ERROR:
                return [self._chunk(choice, {}, end_json(event, self._tokenizer.eos_id))]
            case Usage() if self._includes_usage:
                return [{**self._head, "choices": [], "usage": usage_json(event)}]
        return []

    def _chunk(
        self, index: int, delta: Mapping[str, Any], end: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        pending = self._logprobs.pop(index, None)
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(self._tokenizer, pending) if pending else None,
            **(end or {"finish_reason": None}),
        }
        return {**self._head, "choices": [choice]}


def _delta(piece: ChatPiece) -> dict[str, Any]:
    match piece:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return _reasoning(text)
        case ToolCallStarted(index, call_id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case ToolArgumentsDelta(index, text):
            # An empty name: mistralai wants one in every piece, all clients join the pieces.
            function = {"name": "", "arguments": text}
            return {"tool_calls": [{"index": index, "function": function}]}


def _reasoning(text: str) -> dict[str, str]:
    """Under both names that clients know."""
    return {"reasoning_content": text, "reasoning": text}
