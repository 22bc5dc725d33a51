"""The answer of /v1/responses: its object, and the items that it consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.api.events import EndReason, Finished, Usage
from router.api.responses_schema import ResponsesBody


def response_json(
    head: Mapping[str, Any],
    body: ResponsesBody,
    output: Sequence[Mapping[str, Any]],
    end: Finished | None,
    usage: Usage | None,
) -> dict[str, Any]:
    """The object, as far as it is known.

    Args:
        head: ``id``, ``created_at``, ``model`` and, once it has ended, ``completed_at``.
        body: What was asked; its settings are told again, with their defaults.
        output: Items so far.
        end: How it ended; None: it goes on.
        usage: Of the whole request; None: it goes on.
    """
    status, error, incomplete = _outcome(end)
    text = body.text
    return {
        "object": "response",
        **head,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": incomplete,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "output": list(output),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": body.reasoning.effort if body.reasoning is not None else None,
            "summary": None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {
            "format": (text.format if text is not None else None) or {"type": "text"},
            "verbosity": "medium",
        },
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None if usage is None else _usage(usage),
        "user": body.user,
    }


def _outcome(
    end: Finished | None,
) -> tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """``status``, ``error`` and ``incomplete_details``."""
    if end is None:
        return "in_progress", None, None
    match end.reason:
        case EndReason.LENGTH:
            return "incomplete", None, {"reason": "max_output_tokens"}
        case EndReason.ABORT:
            return "cancelled", None, None
        case EndReason.ERROR:
            return "failed", {"code": "server_error", "message": end.error}, None
    return "completed", None, None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
