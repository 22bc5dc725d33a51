"""Resumable streams over HTTP: how they begin, and how a client comes back to one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from galerne.errors import InvalidRequestError
from router.api.events import Accepted, Event
from router.api.frontend import Frontend
from router.api.http_body import CallT, timed
from router.api.inputs import Resumable
from router.api.pages import (
    ChatPage,
    CompletionPage,
    Page,
    chat_page,
    completion_page,
    numbered_stream,
)
from router.api.resume import ResumeFilter, ResumePoint, offsets_text, parse_event_id, parse_offsets
from router.api.schemas import ChatCompletionBody, CompletionBody
from router.api.sse import EventStreamResponse, while_connected
from router.api.streams import ResumableStream

HEADER = "X-Galerne-Resumable"
REQUEST_ID_HEADER = "X-Galerne-Request-Id"
_PREFIX_BY_API = {"chat": "chatcmpl-", "generate": "cmpl-"}


def wants_resumable(request: Request, *, is_stream: bool) -> bool:
    """Whether a client asks for a resumable stream.

    Raises:
        InvalidRequestError: The header has no meaning here.
    """
    value = request.headers.get(HEADER, "false").lower()
    if value not in ("true", "false"):
        raise InvalidRequestError(HEADER, "must be true or false")
    if value == "true" and not is_stream:
        raise InvalidRequestError(HEADER, "only goes with stream: true")
    return value == "true"


class ResumableRoutes:
    """What the endpoints do for resumable streams, and ``GET /v1/streams/ID``."""

    def __init__(
        self,
        frontend: Frontend,
        head: Callable[[str, int | None, str | None], dict[str, Any]],
        wall_clock_s: Callable[[], float],
    ) -> None:
        """``head(answer_id, created, model)`` is what all chunks begin with."""
        self._frontend = frontend
        self._head = head
        self._wall_clock_s = wall_clock_s

    async def chat(self, request: Request, body: ChatCompletionBody) -> Response:
        """POST /v1/chat/completions with the header."""
        shown = chat_page(body, int(self._wall_clock_s()))
        call = self._resumable(request, body.to_input(), shown)
        return await self._begin(request, "chat", self._frontend.chat(call), shown, body.n or 1)

    async def completion(self, request: Request, body: CompletionBody) -> Response:
        """POST /v1/completions with the header.

        Raises:
            InvalidRequestError: There is more than one prompt.
        """
        inputs = body.to_inputs(self._frontend.limits.max_prompts)
        if len(inputs) > 1:
            raise InvalidRequestError(HEADER, "only goes with one prompt")
        shown = completion_page(body, int(self._wall_clock_s()))
        call = self._resumable(request, inputs[0], shown)
        events = self._frontend.generate(call)
        return await self._begin(request, "generate", events, shown, body.n or 1)

    async def resume(self, request: Request, request_id: str) -> Response:
        """GET /v1/streams/ID?offset=N, one for each choice; or with a Last-Event-ID.

        Raises:
            InvalidRequestError: An offset or id is none of this stream.
            StreamNotFoundError: There is no such stream of this key.
            StreamLostError: It may have been lost.
        """
        points = _points(request)
        for prefix in _PREFIX_BY_API.values():
            request_id = request_id.removeprefix(prefix)
        finding = self._frontend.streams.find(
            request_id, self._owner(request), offsets_text(points)
        )
        stream = await while_connected(request, finding)
        sampling = stream.request.sampling
        new = ResumeFilter(points, sampling.n)
        page = self._page(
            stream.facts.api,
            stream.facts.page or self._default_page(stream),
            request_id,
            sampling.n,
        )
        events = self._frontend.resume(stream)
        await while_connected(request, anext(events))
        return EventStreamResponse(numbered_stream(events, page, new), events)

    async def _begin(
        self,
        request: Request,
        api: str,
        events: AsyncGenerator[Event, None],
        shown: Mapping[str, Any],
        num_choices: int,
    ) -> Response:
        accepted = await while_connected(request, anext(events))
        request_id = accepted.request_id if isinstance(accepted, Accepted) else ""
        page = self._page(api, shown, request_id, num_choices)
        new = ResumeFilter((), num_choices)
        response = EventStreamResponse(numbered_stream(events, page, new), events)
        response.headers[REQUEST_ID_HEADER] = request_id
        return response

    def _page(self, api: str, shown: Mapping[str, Any], request_id: str, num_choices: int) -> Page:
        answer_id = _PREFIX_BY_API[api] + request_id
        head = self._head(answer_id, shown["created"], shown.get("model"))
        tokenizer = self._frontend.tokenizer
        if api == "chat":
            return ChatPage(head, shown, num_choices, tokenizer)
        return CompletionPage(head, shown, tokenizer)

    def _default_page(self, stream: ResumableStream) -> dict[str, Any]:
        """For a stream that began over gRPC."""
        sampling, created = stream.request.sampling, int(self._wall_clock_s())
        if stream.facts.api == "chat":
            has_logprobs = sampling.logprobs is not None
            return {"created": created, "has_logprobs": has_logprobs, "includes_usage": False}
        body = {"prompt": "", "n": sampling.n, "logprobs": sampling.logprobs}
        return {"created": created, "body": body}

    def _resumable(self, request: Request, call: CallT, page: Mapping[str, Any]) -> CallT:
        return replace(timed(request, call), resumable=Resumable(self._owner(request), page))

    def _owner(self, request: Request) -> bytes:
        return self._frontend.keys.owner(request.headers.get("authorization"))


def _points(request: Request) -> Sequence[ResumePoint]:
    """Where to go on; the header is newer than the address, which EventSource repeats."""
    last = request.headers.get("last-event-id", "")
    if last:
        return parse_event_id(last)
    return parse_offsets(request.query_params.getlist("offset"))
