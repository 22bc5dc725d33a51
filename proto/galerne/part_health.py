"""``grpc.health.v1`` of one part, on its internal port: for probes of its own node.

Needs no cluster token, for it tells nothing but whether the part lives; with mutual TLS the port
asks for a certificate all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_STATUS = health_pb2.HealthCheckResponse


def add_part_health(
    server: grpc.aio.Server,
    is_alive: Callable[[], bool],
    is_ready_by_service: Mapping[str, Callable[[], bool]],
) -> None:
    """Answer ``Check`` on a server that has not started.

    Args:
        server: Of the part.
        is_alive: Whether the part works, whatever the others do; asked as the service "".
        is_ready_by_service: Whether it could serve a request now, by name of the service.
    """
    servicer = _PartHealth({"": is_alive, **is_ready_by_service})
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


class _PartHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """``Watch`` is not implemented: who probes asks now and then."""

    def __init__(self, checks: Mapping[str, Callable[[], bool]]) -> None:
        self._checks = checks

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """The status now; an unknown service is NOT_FOUND."""
        check = self._checks.get(request.service)
        if check is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service: unknown {request.service!r}")
        return _STATUS(status=_STATUS.SERVING if check() else _STATUS.NOT_SERVING)
