"""The OpenAI-compatible HTTP app over a ``Frontend``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from galerne.adapters import AdapterInfo
from galerne.errors import GalerneError
from router.api.beat import PERIOD_S
from router.api.cluster_port import ClusterPort
from router.api.errors import ModelNotFoundError
from router.api.frontend import Frontend
from router.api.http_adapters import add_adapter_routes
from router.api.http_cluster import add_cluster_routes, peer_of
from router.api.http_errors import add_error_handlers
from router.api.http_generate import GenerationRoutes
from router.api.http_log_level import add_log_level_route
from router.api.http_metrics import CountResponses
from router.api.http_pages import add_chat_page
from router.api.http_responses import ResponsesRoute
from router.api.http_tokens import TokenRoutes
from router.api.metrics_page import metrics_page
from router.api.request_ids import RequestIds
from router.tracing.incoming import note_incoming

_LATE_S = 2 * PERIOD_S  # without the metrics of a frontend that has died
_AGAIN_S = 0.1


def unix_time_s() -> float:
    """Seconds since 1970, of the wall clock: only to be shown."""
    return datetime.now(tz=UTC).timestamp()


def build_http_app(
    frontend: Frontend,
    cluster: ClusterPort | None = None,
    wall_clock_s: Callable[[], float] = unix_time_s,
    *,
    gives_request_ids: bool = True,
) -> FastAPI:
    """Make the app; it has no state but ``frontend``'s.

    Args:
        frontend: Answers the requests.
        cluster: Is shown on a page, if there is one.
        wall_clock_s: Gives the ``created`` of answers.
        gives_request_ids: Whether ``X-Request-Id`` goes back from here; False where the server
            around the app does that.
    """
    app = FastAPI(title="Galerne", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(CountResponses, responses=frontend.metrics.http_responses)
    if gives_request_ids:
        app.add_middleware(RequestIds)
    api = InfoRoutes(frontend, wall_clock_s)
    tokens = TokenRoutes(frontend)
    responses = ResponsesRoute(frontend, wall_clock_s)
    generation = GenerationRoutes(frontend, wall_clock_s)
    needs_key = [Depends(api.check_key)]
    for path, endpoint, method in (
        ("/v1/chat/completions", generation.chat_completions, "POST"),
        ("/v1/completions", generation.completions, "POST"),
        ("/v1/responses", responses.create, "POST"),
        ("/tokenize", tokens.tokenize, "POST"),
        ("/detokenize", tokens.detokenize, "POST"),
        ("/v1/streams/{request_id:path}", generation.resumable.resume, "GET"),
        ("/v1/models", api.models, "GET"),
        ("/v1/models/{name:path}", api.model, "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], dependencies=needs_key)
    for path, endpoint in (
        ("/health", api.health),
        ("/ready", api.ready),
        ("/metrics", api.metrics),
    ):
        app.add_api_route(path, endpoint, methods=["GET"])
    add_chat_page(app)
    if cluster is not None:
        add_cluster_routes(app, cluster, frontend)
        add_adapter_routes(app, cluster, frontend, generation.read_body)
        add_log_level_route(app, cluster, frontend, generation.read_body)
    add_error_handlers(app)
    return app


class InfoRoutes:
    """Models, probes and metrics; and the check of keys."""

    def __init__(self, frontend: Frontend, wall_clock_s: Callable[[], float]) -> None:
        self._frontend = frontend
        self._started_s = int(wall_clock_s())

    async def check_key(self, request: Request) -> None:
        """Refuse a client without a key, before its body is read.

        Raises:
            UnauthenticatedError: No key, or a wrong one.
        """
        note_incoming(request.headers.items())
        self._frontend.access.enter(
            request.url.path, request.headers.get("authorization"), peer_of(request)
        )

    async def models(self) -> Response:
        """GET /v1/models."""
        models = [self._model_json(), *map(self._adapter_json, self._frontend.gateway.adapters)]
        return JSONResponse({"object": "list", "data": models})

    async def model(self, name: str) -> Response:
        """GET /v1/models/NAME.

        Raises:
            ModelNotFoundError: Another is served.
        """
        for info in self._frontend.gateway.adapters:
            if info.name == name:
                return JSONResponse(self._adapter_json(info))
        if name != self._frontend.model.name:
            raise ModelNotFoundError("model", f"{name[:200]!r} is not served here")
        return JSONResponse(self._model_json())

    async def health(self) -> Response:
        """GET /health: the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """GET /ready: whether requests can be served, else 503 and why."""
        reason = await self._frontend.unready_reason()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, 503)

    async def metrics(self) -> Response:
        """GET /metrics, of all frontends and of what the cluster has reported."""
        await self._frontend.note_ready()
        try:
            await self._all_told()
            text_by_process = (await self._frontend.gateway.cluster()).process_metrics
        except GalerneError:  # what is here is worth the more for it
            text_by_process = {}
        metrics, process = self._frontend.metrics, self._frontend.process
        page = await asyncio.to_thread(metrics_page, metrics.set, text_by_process, process)
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _all_told(self) -> None:
        """One that was alone tells its metrics when it hears of this one: at its next beat."""
        deadline_s = time.monotonic() + _LATE_S
        while (  # noqa: ASYNC110 - each look asks the controller
            not await self._frontend.tell() and time.monotonic() < deadline_s
        ):
            await asyncio.sleep(_AGAIN_S)

    def _adapter_json(self, info: AdapterInfo) -> dict[str, Any]:
        own = {"id": info.name, "root": info.directory, "parent": self._frontend.model.name}
        return self._model_json() | own

    def _model_json(self) -> dict[str, Any]:
        model = self._frontend.model
        return {
            "id": model.name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "galerne",
            "max_model_len": model.max_model_len,
            "capabilities": {
                "completion_chat": True,
                "function_calling": True,
                "vision": model.takes_images,
                "reasoning": bool(self._frontend.reasoning_efforts),
            },
            "reasoning_efforts": self._frontend.reasoning_efforts,
        }
