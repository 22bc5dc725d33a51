"""Ids by which clients and proxies follow a call; the server only gives them back."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_CHARS = 128
HEADER = "x-request-id"


def request_id_from(given: str | None) -> str:
    """The id that came with a call, or a new one if none did or it is none that can go back."""
    if given and len(given) <= MAX_CHARS and given.isascii() and given.isprintable():
        return given
    return secrets.token_hex(16)


class RequestIds:
    """ASGI middleware: every answer has ``X-Request-Id``, the request's own if it has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER.encode())
        request_id = request_id_from(None if given is None else given.decode("latin-1"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
