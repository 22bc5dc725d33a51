"""POST /v1/responses: a chat in the shapes of OpenAI's newer API, without anything kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from galerne.errors import InvalidRequestError
from router.api.errors import EndedWithError
from router.api.events import Accepted, EndReason, Event
from router.api.frontend import Frontend
from router.api.http_body import read_body, timed
from router.api.http_resume import HEADER, wants_resumable
from router.api.responses_events import ResponseWriter
from router.api.responses_input import Conversation
from router.api.responses_schema import ResponsesBody, renamed
from router.api.schemas import parse_body
from router.api.sse import EventStreamResponse, encode_event, while_connected

T = TypeVar("T")


class ResponsesRoute:
    """The endpoint."""

    def __init__(self, frontend: Frontend, wall_clock_s: Callable[[], float]) -> None:
        self._frontend = frontend
        self._wall_clock_s = wall_clock_s

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        data = await read_body(request, self._frontend.limits)
        body = parse_body(ResponsesBody, data)
        if wants_resumable(request, is_stream=bool(body.stream)):
            raise InvalidRequestError(HEADER, "is not supported with /v1/responses")
        chat, conversation = body.to_chat()
        try:
            call = timed(request, chat.to_input())
        except InvalidRequestError as error:
            raise renamed(error, conversation) from error
        events = self._frontend.chat(call)
        first = await while_connected(request, _refused_as_here(anext(events), conversation))
        request_id = first.request_id if isinstance(first, Accepted) else ""
        writer = ResponseWriter(
            request_id,
            body.model or self._frontend.model.name,
            body,
            self._frontend.tokenizer,
            self._wall_clock_s,
        )
        if body.stream:
            return EventStreamResponse(_stream(events, writer), events)
        return JSONResponse(await while_connected(request, _whole(events, writer)))


async def _refused_as_here(first: Awaitable[T], conversation: Conversation) -> T:
    try:
        return await first
    except InvalidRequestError as error:
        raise renamed(error, conversation) from error


async def _whole(events: AsyncGenerator[Event, None], writer: ResponseWriter) -> dict[str, object]:
    """The answer at once.

    Raises:
        EndedWithError: It ended with an error.
    """
    async with aclosing(events):
        async for event in events:
            writer.take(event)
    end = writer.end
    if end is not None and end.reason is EndReason.ERROR:
        raise EndedWithError(end.error_status, end.error)
    return writer.response()


async def _stream(
    events: AsyncGenerator[Event, None], writer: ResponseWriter
) -> AsyncGenerator[bytes, None]:
    """Typed server-sent events; the last one says how it ended."""
    for shaped in writer.start():
        yield encode_event(shaped, kind=shaped["type"])
    async for event in events:
        for shaped in writer.take(event):
            yield encode_event(shaped, kind=shaped["type"])
