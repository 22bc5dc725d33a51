"""Server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from galerne.errors import RequestAbortedError

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
STALL_TIMEOUT_S = 60.0  # a client that takes nothing for so long is given up


def encode_event(body: Mapping[str, Any], event_id: str = "", kind: str = "") -> bytes:
    """One ``data:`` event of JSON in UTF-8, with an ``id:`` and ``event:`` if there is one."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    first = f"id: {event_id}\n" if event_id else ""
    first += f"event: {kind}\n" if kind else ""
    return f"{first}data: {text}\n\n".encode("utf-8", errors="replace")


class EventStreamResponse(Response):
    """Sends events as they come, and closes their generator as soon as the client has left.

    Starlette's own response leaves a generator that waits for a slow client to the garbage
    collector.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: AsyncGenerator[Any, None],
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        """``events`` is made from ``source``, which has begun; both are closed at the end."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._source = source
        self._stall_timeout_s = stall_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._events.aclose()
            await self._source.aclose()  # a generator that never began closes nothing
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for event in self._events:
            async with asyncio.timeout(self._stall_timeout_s):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(request: Request, answer: Awaitable[T]) -> T:
    """Wait for an answer; its task is cancelled if the client leaves first.

    The body must have been read.

    Raises:
        RequestAbortedError: The client has left.
    """
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise RequestAbortedError("(http)", "the client has left")
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
