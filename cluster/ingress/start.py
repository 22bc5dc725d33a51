"""A frontend that waits for the first gateway: what it knows meanwhile, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.control.starting import StartReport
from galerne.errors import GalerneError, NotServingError
from router.api.http_errors import add_error_handlers

_POLL_S = 1.0


class StartDirectory(Protocol):
    """Where to ask how far the parts have come."""

    async def start_report(self) -> StartReport:
        """Of the controller; raises NotServingError while there is none."""
        ...


class Start:
    """Why this frontend does not serve yet."""

    def __init__(self, directory: StartDirectory, poll_s: float = _POLL_S) -> None:
        self._directory = directory
        self._poll_s = poll_s
        self.reason = "starting"

    def error(self) -> NotServingError:
        """For who asks too early."""
        return NotServingError(self.reason)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Ask the controller while the block waits; the error that ends it is the reason then."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        except GalerneError as error:
            self.reason = f"{_words(error)}; {self.reason}"
            raise
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                report = await self._directory.start_report()
                self.reason = f"loading: {report.text}"
            except GalerneError as error:
                self.reason = f"waiting for the controller: {_words(error)}"
            await asyncio.sleep(self._poll_s)


def _words(error: GalerneError) -> str:
    return error.reason if isinstance(error, NotServingError) else str(error)


class WaitingApp:
    """An ASGI app that answers 503 with the reason, until there is another one to ask."""

    def __init__(self, start: Start, built: Callable[[], ASGIApp | None]) -> None:
        self._built = built
        self._waiting = _waiting_app(start)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. The lifespan is ours: the other app has none."""
        app = None if scope["type"] == "lifespan" else self._built()
        await (app or self._waiting)(scope, receive, send)


def _waiting_app(start: Start) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        return JSONResponse({"status": "not ready", "reason": start.reason}, 503)

    async def refuse(path: str) -> Response:
        raise start.error()

    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    methods = ["GET", "POST", "PUT", "DELETE"]
    app.add_api_route("/{path:path}", refuse, methods=methods)
    add_error_handlers(app)
    return app
