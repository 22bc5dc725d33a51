"""Counts answers by route and status."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NO_ROUTE: Final = "other"  # what no route takes: paths are the client's to choose


class CountResponses:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, responses: Counter) -> None:
        """``responses`` has the labels ``route`` and ``code``."""
        self._app = app
        self._responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", _NO_ROUTE)  # noted by the router
                self._responses.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, send_counted)
