"""Counts answers by route and status."""

from __future__ import annotations

from http import HTTPStatus
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

        is_begun = False

        async def send_counted(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception:
            if not is_begun:  # whoever is around us answers
                self._count(scope, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise

    def _count(self, scope: Scope, status: int) -> None:
        route = getattr(scope.get("route"), "path", _NO_ROUTE)  # noted by the router
        self._responses.labels(route, str(int(status))).inc()
