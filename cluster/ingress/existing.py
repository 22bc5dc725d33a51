"""A Ray Serve that runs already: what it can do for us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galerne.errors import ConfigError

SERVICERS = (
    "galerne.v1.inference_pb2_grpc.add_InferenceServiceServicer_to_server",
    "galerne.v1.cluster_pb2_grpc.add_ClusterServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)
ROUTE = "/"
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
_NAMESPACE = "serve"
_WHERE = ("address", "the Ray Serve that runs there")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServe:
    """Where a running Serve listens, through what, and what it carries."""

    host: str
    http_port: int
    grpc_port: int
    is_haproxy: bool
    servicers: Sequence[str]
    route_by_app: Mapping[str, str | None]


def is_serve_running() -> bool:
    """Whether the cluster has a Serve. Does not import ``ray.serve``."""
    import ray

    try:
        ray.get_actor(_CONTROLLER, namespace=_NAMESPACE)
    except ValueError:
        return False
    return True


def kill_serve() -> None:
    """End Serve's controller at once, if there is one: whoever waits for it gets an error."""
    import ray

    try:
        ray.kill(ray.get_actor(_CONTROLLER, namespace=_NAMESPACE), no_restart=True)
    except ValueError:
        return


def serve_details(timeout_s: float) -> Mapping[str, Any] | None:
    """What Serve's controller tells over its REST API; None if it does not answer in time."""
    import ray

    try:
        controller = ray.get_actor(_CONTROLLER, namespace=_NAMESPACE)
        told = controller.get_serve_instance_details.remote()
        details: Mapping[str, Any] = ray.get(told, timeout=timeout_s)
    except (ValueError, ray.exceptions.RayError):
        return None
    return details


def describe_running_serve() -> RunningServe:
    """What runs. Imports ``ray.serve``.

    Private API, for there is no public way to learn Serve's ports and its kind of proxy.
    """
    import ray
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    proxies = ray.get(client._controller.get_proxies.remote())
    is_haproxy = any("HAProxyManager" in repr(proxy) for proxy in proxies.values())
    return parse_details(client.get_serve_details(), is_haproxy=is_haproxy)


def parse_details(details: Mapping[str, Any], *, is_haproxy: bool) -> RunningServe:
    """Serve's details (as of its REST API) as a value. Pure."""
    http, grpc = details["http_options"], details.get("grpc_options") or {}
    return RunningServe(
        host=http["host"],
        http_port=http["port"],
        grpc_port=grpc.get("port", 0),
        is_haproxy=is_haproxy,
        servicers=tuple(grpc.get("grpc_servicer_functions") or ()),
        route_by_app={
            name: app.get("route_prefix") for name, app in details["applications"].items()
        },
    )


def check_usable(serve: RunningServe, app_name: str) -> None:
    """Refuse a Serve that cannot carry us. Pure.

    Raises:
        ConfigError: Its gRPC proxy lacks our services, which cannot be added while it runs, or
            another application has our route or our name.
    """
    missing = [name for name in SERVICERS if name not in serve.servicers]
    if missing:
        problem = (
            f"lacks grpc_servicer_functions {', '.join(missing)}; end it or start it with them"
        )
        raise ConfigError(*_WHERE, problem)
    for name, route in serve.route_by_app.items():
        if name == app_name:
            raise ConfigError("app_name", app_name, "an application of this name runs already")
        if route == ROUTE:
            raise ConfigError(*_WHERE, f"its application {name} has the route {ROUTE}")
