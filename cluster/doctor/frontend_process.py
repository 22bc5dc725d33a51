"""A frontend with its gRPC server in a process of its own, for the time of a measurement.

    python -m cluster.doctor.frontend_process < LINES

The first line on stdin is its settings as JSON (they hold a token, so they are no arguments); it
prints its address, and ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.doctor.line_process import say
from router.api.frontend import Frontend
from router.api.grpc_server import build_grpc_server
from router.chat.tokenizer import load_tokenizer
from router.gateway.pool import GatewayPool
from router.gateway.roster import Roster

_START_S = 30.0


class _OneGateway:
    """Implements ``Directory``."""

    def __init__(self, address: str) -> None:
        self._roster = Roster(gateways={"gateway-0": address})

    async def roster(self, *, with_metrics: bool = False) -> Roster:
        """Always the same."""
        return self._roster


async def _serve(asked: dict[str, Any]) -> None:
    pool = GatewayPool(_OneGateway(asked["gateway"]), asked["cluster_token"])
    await pool.start(_START_S)
    directory = asked["tokenizer"]
    frontend = Frontend(pool, load_tokenizer(None if directory is None else Path(directory)))
    built = build_grpc_server(frontend, "127.0.0.1:0")
    await built.server.start()
    say({"address": f"127.0.0.1:{built.port}"})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await built.server.stop(None)
    await pool.close()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.stdin.readline())))
    os._exit(0)  # gRPC's threads need not be waited for
