"""A gRPC server around a frontend: service, health, reflection, keys and limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from galerne.errors import ConfigError, GalerneError
from galerne.v1 import inference_pb2_grpc as pb_grpc
from router.api.access import Access
from router.api.frontend import Frontend
from router.api.grpc_servicer import Context, InferenceServicer, abort_with
from router.api.health import INFERENCE_SERVICE, HealthServicer

_HEALTH_PREFIX = f"/{health.SERVICE_NAME}/"  # probes have no key
KEEPALIVE_S = 30
KEEPALIVE_TIMEOUT_S = 10
MIN_PING_INTERVAL_S = 10  # clients that ping more often are turned away


class GrpcServer(NamedTuple):
    """A server that is bound but not started, and its port."""

    server: grpc.aio.Server
    port: int


def build_grpc_server(
    frontend: Frontend, address: str, credentials: grpc.ServerCredentials | None = None
) -> GrpcServer:
    """Make a server of ``frontend`` on ``host:port``; port 0 lets the system choose.

    Without ``credentials`` the connection is in plain text.

    Raises:
        ConfigError: The address cannot be bound.
    """
    server = grpc.aio.server(
        interceptors=[KeyInterceptor(frontend.access)],
        options=server_options(frontend.limits.max_body_bytes),
    )
    pb_grpc.add_InferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        InferenceServicer(frontend), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(frontend.unready_reason), server)
    names = (INFERENCE_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError("grpc.address", address, str(error)) from error
    return GrpcServer(server, port)


def server_options(max_receive_bytes: int) -> list[tuple[str, Any]]:
    """Options of grpc.aio for a public listener."""
    return [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # two servers on one port would each get half the clients
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_S * 1000),
    ]


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets only those pass whose key, in the metadata ``authorization``, may; health is open."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's handlers have no common type
        """Pass the call on, or end it UNAUTHENTICATED or PERMISSION_DENIED."""
        if not handler_call_details.method.startswith(_HEALTH_PREFIX):
            method = handler_call_details.method.rpartition("/")[2]
            try:
                self._access.enter_rpc(method, handler_call_details.invocation_metadata)
            except GalerneError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: GalerneError) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_request: object, context: Context) -> None:
        await abort_with(context, error)

    return grpc.unary_unary_rpc_method_handler(refuse)
