"""The endpoints that generate."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from router.api.chat_json import ChatChunks, chat_completion
from router.api.completion_json import CompletionChunks, completion
from router.api.events import Accepted
from router.api.frontend import Frontend
from router.api.http_body import read_body, timed
from router.api.http_resume import ResumableRoutes, wants_resumable
from router.api.http_streams import (
    chat_stream,
    collect_all,
    collect_closing,
    completion_stream,
    until_accepted,
)
from router.api.merge import merge
from router.api.schemas import ChatCompletionBody, CompletionBody, parse_body
from router.api.sse import EventStreamResponse, while_connected


class GenerationRoutes:
    """/v1/chat/completions and /v1/completions."""

    def __init__(self, frontend: Frontend, wall_clock_s: Callable[[], float]) -> None:
        self._frontend = frontend
        self._wall_clock_s = wall_clock_s
        self.resumable = ResumableRoutes(frontend, self._head, wall_clock_s)

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = parse_body(ChatCompletionBody, await self.read_body(request))
        with body.naming():
            if wants_resumable(request, is_stream=bool(body.stream)):
                return await self.resumable.chat(request, body)
            return await self._chat(request, body)

    async def _chat(self, request: Request, body: ChatCompletionBody) -> Response:
        events = self._frontend.chat(timed(request, body.to_input()))
        num_choices = body.n or 1
        has_logprobs = bool(body.logprobs)
        if not body.stream:
            collected = await while_connected(request, collect_closing(events, num_choices))
            head = self._head(f"chatcmpl-{collected.accepted.request_id}", model=body.model)
            tokenizer = self._frontend.tokenizer
            return JSONResponse(
                chat_completion(head, collected, tokenizer, has_logprobs=has_logprobs)
            )
        accepted = await while_connected(request, anext(events))
        request_id = accepted.request_id if isinstance(accepted, Accepted) else ""
        chunks = ChatChunks(
            self._head(f"chatcmpl-{request_id}", model=body.model),
            self._frontend.tokenizer,
            has_logprobs=has_logprobs,
            includes_usage=body.includes_usage,
        )
        return EventStreamResponse(chat_stream(events, chunks, num_choices), events)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = parse_body(CompletionBody, await self.read_body(request))
        if wants_resumable(request, is_stream=bool(body.stream)):
            return await self.resumable.completion(request, body)
        calls = body.to_inputs(self._frontend.limits.max_prompts)
        merged = merge([self._frontend.generate(timed(request, call)) for call in calls])
        head = self._head(f"cmpl-{secrets.token_hex(16)}", model=body.model)
        if body.stream:
            chunks = CompletionChunks(head, body, self._frontend.tokenizer)
            begun = await while_connected(request, until_accepted(merged, len(calls)))
            return EventStreamResponse(completion_stream(begun, merged, chunks), merged)
        num_choices = body.n or 1
        answers = await while_connected(request, collect_all(merged, len(calls), num_choices))
        return JSONResponse(completion(head, answers, body, self._frontend.tokenizer))

    async def read_body(self, request: Request) -> bytes:
        """See ``http_body``."""
        return await read_body(request, self._frontend.limits)

    def _head(
        self, answer_id: str, created: int | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """What all answers begin with; ``created`` unset: now, ``model``: the served one."""
        served = self._frontend.model
        return {
            "id": answer_id,
            "created": int(self._wall_clock_s()) if created is None else created,
            "model": model or served.name,
            "system_fingerprint": served.fingerprint,
        }
