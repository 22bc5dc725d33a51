"""The demo's model behind both public APIs, in threads of the test: for real clients."""

import asyncio
import threading
from contextlib import contextmanager
from types import SimpleNamespace

from helpers.api_servers import http_served, make_frontend
from helpers.gateway_process import TOKEN, Directory, speaking_settings
from router.api.grpc_server import build_grpc_server
from router.gateway.host import GatewayHost
from router.gateway.pool import GatewayPool

MODEL = "galerne-demo"
_START_S = 60.0


@contextmanager
def demo_server():
    """Its ``http`` URL, its ``grpc`` address, and the ``gateway`` behind them."""
    gateway = GatewayHost(speaking_settings(model_name=MODEL), None)
    server = SimpleNamespace(gateway=gateway, model=MODEL)
    is_up, is_over = threading.Event(), threading.Event()

    async def serve():
        pool = GatewayPool(Directory(gateway=gateway.address), TOKEN)
        await pool.start(_START_S)
        frontend = make_frontend(pool)
        public = build_grpc_server(frontend, "127.0.0.1:0")
        await public.server.start()
        async with http_served(frontend) as url:
            server.http, server.grpc = url, f"127.0.0.1:{public.port}"
            is_up.set()
            await asyncio.to_thread(is_over.wait)
        await public.server.stop(0)
        await pool.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="demo-server")
    thread.start()
    try:
        assert is_up.wait(_START_S), "the server did not come up"
        yield server
    finally:
        is_over.set()
        thread.join(_START_S)
        gateway.stop()
