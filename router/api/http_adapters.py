"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM's users know them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field

from router.api.cluster_port import MAX_DEADLINE_S, UNLOAD_DEADLINE_S, ClusterPort
from router.api.frontend import Frontend
from router.api.http_cluster import admin_check
from router.api.schemas import PlainBody, parse_body


class LoadAdapterBody(PlainBody):
    """What is to be loaded; further keys of vLLM's are not looked at."""

    lora_name: str
    lora_path: str = ""  # the directory's name; empty: as the name


class UnloadAdapterBody(PlainBody):
    """What is to be unloaded."""

    lora_name: str
    deadline_s: float = Field(UNLOAD_DEADLINE_S, ge=0, le=MAX_DEADLINE_S)


def add_adapter_routes(
    app: FastAPI,
    cluster: ClusterPort,
    frontend: Frontend,
    read: Callable[[Request], Awaitable[bytes]],
) -> None:
    """For who may change the cluster; ``read`` gives a body within its limit."""
    routes = AdapterRoutes(cluster, frontend, read)
    needs_admin = [Depends(admin_check(frontend))]
    for path, endpoint in (
        ("/v1/load_lora_adapter", routes.load),
        ("/v1/unload_lora_adapter", routes.unload),
    ):
        app.add_api_route(path, endpoint, methods=["POST"], dependencies=needs_admin)


class AdapterRoutes:
    """Both endpoints."""

    def __init__(
        self,
        cluster: ClusterPort,
        frontend: Frontend,
        read: Callable[[Request], Awaitable[bytes]],
    ) -> None:
        self._cluster = cluster
        self._frontend = frontend
        self._read = read

    async def load(self, request: Request) -> Response:
        """POST /v1/load_lora_adapter: returns when every part has it."""
        body = parse_body(LoadAdapterBody, await self._read(request))
        self._frontend.access.note_action("LoadAdapter", asked=body.model_dump())
        info = await self._cluster.load_adapter(body.lora_name, body.lora_path)
        await self._frontend.gateway.refresh()
        return PlainTextResponse(f"Success: LoRA adapter '{info.name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """POST /v1/unload_lora_adapter: waits for requests that use it."""
        body = parse_body(UnloadAdapterBody, await self._read(request))
        self._frontend.access.note_action("UnloadAdapter", asked=body.model_dump())
        info = await self._cluster.unload_adapter(body.lora_name, body.deadline_s)
        await self._frontend.gateway.refresh()
        return PlainTextResponse(f"Success: LoRA adapter '{info.name}' removed successfully.")
