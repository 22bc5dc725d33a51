"""``/cluster``: what serves and what the autoscaler decides, as a page and as JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from galerne.errors import (
    GalerneError,
    InvalidRequestError,
    NotServingError,
    UnauthenticatedError,
)
from router.api.cluster_messages import plain_of
from router.api.cluster_page import PAGE_HEADERS, ClusterView, failure_page, page
from router.api.cluster_port import ClusterPort
from router.api.frontend import Frontend

_NUM_SHOWN = 20  # decisions on the page
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="galerne: any name, the API key as password"'}


def add_cluster_routes(app: FastAPI, cluster: ClusterPort, frontend: Frontend) -> None:
    """Routes under ``/cluster``, and ``/v1/cluster``, for those who have a key."""
    routes = ClusterRoutes(cluster, frontend)
    needs_key = [Depends(routes.check_key)]
    for path, endpoint in (
        ("/cluster", routes.page),
        ("/cluster/experts", routes.experts),
        ("/v1/cluster", routes.serving),
        ("/cluster/decisions", routes.decisions),
        ("/cluster/decisions/{number}", routes.decision),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], dependencies=needs_key)


class ClusterRoutes:
    """The page and its JSON."""

    def __init__(self, cluster: ClusterPort, frontend: Frontend) -> None:
        self._cluster = cluster
        self._frontend = frontend

    async def check_key(self, request: Request) -> None:
        """As elsewhere, and by the password that a browser asks for.

        Raises:
            HTTPException: No key, or a wrong one.
        """
        try:
            self._frontend.access.enter(
                request.url.path,
                as_bearer(request.headers.get("authorization")),
                peer_of(request),
            )
        except UnauthenticatedError as error:
            raise HTTPException(401, str(error), _CHALLENGE) from None

    async def page(self, request: Request) -> Response:
        """GET /cluster; with ``?number=N`` that decision, and no refresh."""
        number = _number_in(request, "number")
        try:
            view = await self._view(number)
            view = replace(view, experts=await self._cluster.expert_load())
        except NotServingError as error:  # a page that tries again
            return HTMLResponse(failure_page(str(error)), 503, PAGE_HEADERS)
        return HTMLResponse(page(view, self._frontend.model.name, number), headers=PAGE_HEADERS)

    async def experts(self) -> Response:
        """GET /cluster/experts: rows by layer and expert and by shard, as on the page."""
        return JSONResponse(plain_of(await self._cluster.expert_load()))

    async def serving(self) -> Response:
        """GET /v1/cluster: who serves, and what each shard has computed since it started."""
        topology = await self._cluster.topology()
        load = await self._cluster.expert_load()
        return JSONResponse(
            {
                "object": "cluster",
                "epoch": topology.epoch,
                "mode": topology.mode,
                "transport": topology.transport,
                "gateways": list(topology.gateways),
                "shards": [{"id": shard.id, "rows": shard.rows} for shard in load.shards],
            }
        )

    async def decisions(self, request: Request) -> Response:
        """GET /cluster/decisions: the same as JSON; with ``?after=N`` the decisions since then."""
        view = await self._view(None, _number_in(request, "after"))
        return JSONResponse(_plain(view))

    async def decision(self, number: str) -> Response:
        """GET /cluster/decisions/N: the whole record."""
        facts = await self._cluster.explain(_whole("number", number))
        assert facts.decision is not None  # of a number that is known
        return Response(facts.decision.json, media_type="application/json")

    async def _view(self, number: int | None, after: int | None = None) -> ClusterView:
        topology = await self._cluster.topology()
        try:
            scaler = await self._cluster.explain(number)
        except (NotServingError, InvalidRequestError):
            raise
        except GalerneError as error:
            return ClusterView(topology=topology, scaler=None, problem=str(error), decisions=())
        first = max(scaler.last_number - _NUM_SHOWN, 0) if after is None else after
        return ClusterView(
            topology=topology,
            scaler=scaler,
            problem="",
            decisions=tuple(await self._cluster.decisions(first)),
        )


def admin_check(frontend: Frontend) -> Callable[[Request], Awaitable[None]]:
    """Refuses who may not change the cluster, before the body is read."""

    async def check(request: Request) -> None:
        authorization = request.headers.get("authorization")
        frontend.access.enter(request.url.path, authorization, peer_of(request), as_admin=True)

    return check


def peer_of(request: Request) -> str:
    """Address of the client, as the proxies in front say, or else of what has connected."""
    direct = request.client.host if request.client is not None else ""
    return request.headers.get("x-forwarded-for", direct)


def as_bearer(authorization: str | None) -> str | None:
    """A value of ``Authorization`` with the password of the Basic scheme as a bearer's key.

    Another scheme, and what cannot be read, stays as it is.
    """
    scheme, _, coded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        text = base64.b64decode(coded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return authorization
    return f"Bearer {text.partition(':')[2]}"


def _plain(view: ClusterView) -> dict[str, Any]:
    return {
        "topology": plain_of(view.topology),
        "autoscaler": None if view.scaler is None else plain_of(view.scaler),
        "problem": view.problem,
        "decisions": [plain_of(decision) for decision in view.decisions],
    }


def _number_in(request: Request, name: str) -> int | None:
    value = request.query_params.get(name)
    return None if value is None else _whole(name, value)


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 19):  # int64 in the messages
        raise InvalidRequestError(name, f"must be a whole number, got {value[:50]!r}")
    return int(value)
