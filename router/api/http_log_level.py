"""``/v1/cluster/log-level``: what processes log, changed while they serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from router.api.cluster_port import ClusterPort
from router.api.frontend import Frontend
from router.api.http_cluster import admin_check
from router.api.log_level import set_log_level
from router.api.schemas import PlainBody, parse_body


class LogLevelBody(PlainBody):
    """What is to be logged, and by whom."""

    level: str
    part: str = ""  # empty: by all


def add_log_level_route(
    app: FastAPI,
    cluster: ClusterPort,
    frontend: Frontend,
    read: Callable[[Request], Awaitable[bytes]],
) -> None:
    """For who may change the cluster; ``read`` gives a body within its limit."""

    async def put(request: Request) -> Response:
        body = parse_body(LogLevelBody, await read(request))
        parts = await set_log_level(cluster, frontend, body.level, body.part)
        return JSONResponse({"level": body.level, "parts": list(parts)})

    needs_admin = [Depends(admin_check(frontend))]
    app.add_api_route("/v1/cluster/log-level", put, methods=["PUT"], dependencies=needs_admin)
