"""A Ray Serve that runs already: what it can do for us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from galerne.errors import ConfigError

SERVICERS = (
    "galerne.v1.inference_pb2_grpc.add_InferenceServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)
ROUTE = "/"


class RunningServe(NamedTuple):
    """Where a running Serve listens, and through what."""

    host: str
    http_port: int
    grpc_port: int
    is_haproxy: bool
    num_other_apps: int


def find_running_serve() -> RunningServe | None:
    """The Serve of the cluster that this process is connected to. Imports ``ray.serve``.

    Private API of Serve, as there is no public way to learn its ports and proxy.
    """
    import ray
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    details = client.get_serve_details()
    proxies = ray.get(client._controller.get_proxies.remote())
    http, grpc = details["http_options"], details["grpc_options"]
    return RunningServe(
        host=http["host"],
        http_port=http["port"],
        grpc_port=grpc["port"],
        is_haproxy=any("HAProxyManager" in repr(proxy) for proxy in proxies.values()),
        num_other_apps=len(details["applications"]),
    )


def running_details() -> Mapping[str, Any]:
    """What Serve says of itself, for ``check_usable``."""
    from ray.serve.context import _get_global_client

    details: Mapping[str, Any] = _get_global_client().get_serve_details()
    return details


def check_usable(details: Mapping[str, Any], app_name: str) -> None:
    """Refuse a Serve that cannot carry us. Pure.

    Raises:
        ConfigError: Its gRPC proxy lacks our services, which cannot be added while it runs, or
            another application has our route or our name.
    """
    grpc_options = details.get("grpc_options") or {}
    known: Sequence[str] = grpc_options.get("grpc_servicer_functions") or ()
    missing = [name for name in SERVICERS if name not in known]
    if missing:
        problem = f"start it with grpc_servicer_functions {', '.join(missing)}, or without Serve"
        raise ConfigError("address", "the Ray Serve that runs there", problem)
    for name, app in details.get("applications", {}).items():
        if name == app_name:
            raise ConfigError("app_name", app_name, "an application of this name runs already")
        if app.get("route_prefix") == ROUTE:
            raise ConfigError("address", "the Ray Serve that runs there", f"{name} has route {ROUTE}")
