"""Real servers on loopback around a frontend, for tests."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from functools import cache, partial
from types import SimpleNamespace

import grpc
import uvicorn
from openai import AsyncOpenAI

from galerne.v1 import cluster_pb2_grpc
from router.api.beat import FrontendBeat
from router.api.cluster_servicer import ClusterServicer
from router.api.frontend import Frontend
from router.api.grpc_server import KeyInterceptor, build_grpc_server
from router.api.http_app import build_http_app
from router.chat.tokenizer import Tokenizer, load_tokenizer


@cache
def embedded() -> Tokenizer:
    return load_tokenizer(None)


def ids_of(*parts: str | int) -> list[int]:
    """Ids of pieces of text and of ids as they are."""
    ids = []
    for part in parts:
        ids += [part] if isinstance(part, int) else embedded().encode_text(part, add_bos=False)
    return ids


def make_frontend(gateway, **options) -> Frontend:
    return Frontend(gateway, embedded(), **options)


@asynccontextmanager
async def http_served(frontend, cluster=None):
    """Base URL of a running HTTP server."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(build_http_app(frontend, cluster), lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        sock.close()


@asynccontextmanager
async def openai_client(frontend, api_key="none"):
    async with (
        http_served(frontend) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0) as client,
    ):
        yield client


@asynccontextmanager
async def telling(controller, *frontends):
    """These frontends tell a controller how they stand, more often than in earnest."""
    beats = []
    for frontend in frontends:
        tell = partial(controller.frontend_news, str(id(frontend)))
        beats.append(FrontendBeat(frontend, SimpleNamespace(frontend_news=tell)))
    tasks = [asyncio.create_task(beat.run(0.02)) for beat in beats]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def cluster_served(cluster, frontend):
    """Port of a running ``ClusterService``."""
    server = grpc.aio.server(interceptors=[KeyInterceptor(frontend.access)])
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(
        ClusterServicer(cluster, frontend), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with telling(cluster, frontend):
            yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def grpc_served(frontend):
    """host:port of a running gRPC server."""
    built = build_grpc_server(frontend, "127.0.0.1:0")
    await built.server.start()
    try:
        yield f"127.0.0.1:{built.port}"
    finally:
        await built.server.stop(None)


@asynccontextmanager
async def grpc_channel(frontend):
    async with grpc_served(frontend) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel
