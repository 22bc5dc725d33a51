"""Starts the public ports on Ray Serve, and ends them in the right order."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cluster.ingress import loopback
from cluster.ingress.deployment import GalerneIngress
from cluster.ingress.environment import (
    IngressPorts,
    choose_ports,
    haproxy_environment,
    proxy_environment,
)
from cluster.ingress.existing import (
    ROUTE,
    SERVICERS,
    check_usable,
    describe_running_serve,
    is_serve_running,
)
from cluster.ingress.haproxy import end_leftovers, find_haproxy, write_wrapper
from cluster.ingress.leaving import CHECK_PERIOD_S
from cluster.ingress.replicas import kill_frontends
from cluster.ingress.settings import IngressSettings
from cluster.nodes import HEAD_RESOURCE, alive_nodes
from cluster.ports import LOOPBACK, check_port, is_loopback
from cluster.run_directory import RunDirectory
from galerne.errors import ConfigError, GalerneError

logger = logging.getLogger(__name__)

HAPROXY, SERVE_PROXY = "HAProxy", "Serve proxy"
_CLOSE_TIMEOUT_S = 10.0  # beyond the time to drain


class IngressError(GalerneError):
    """The ingress did not come up."""

    status = "UNAVAILABLE"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"ingress: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """The running ingress."""

    http_address: str  # host:port
    grpc_address: str
    mode: str  # HAPROXY or SERVE_PROXY
    note: str  # why not HAProxy, or what clients of a shared Serve must send; mostly empty
    ports: IngressPorts | None  # None: a Serve that is not ours chose them
    _app_name: str
    _handle: Any
    _run: RunDirectory
    _owns_serve: bool  # on a Ray that is not ours, a Serve that we started stays

    def close(self, drain_s: float = 0.0) -> None:
        """Stop admitting, give running requests ``drain_s``, then free the ports.

        A Serve that was running before us, or carries others by now, goes on.
        """
        # By Ray, and not by the replicas' gRPC ports: those are on loopback, and Serve looks for
        # them at the node's address.
        handle = self._handle.options(_by_reference=True)
        try:
            handle.broadcast("close", drain_s).results(timeout_s=drain_s + _CLOSE_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must go
            logger.warning("ingress_close_failed reason=%s", error)
            kill_frontends(self._app_name)
        _take_down(self._app_name, self._run, owns_serve=self._owns_serve)


class _Proxy(NamedTuple):
    """How clients reach the frontend: the kind of proxy, and the variables that choose it."""

    mode: str
    environment: Mapping[str, str]
    note: str = ""


def start_ingress(
    settings: IngressSettings,
    *,
    host: str,
    http_port: int,
    grpc_port: int,
    run: RunDirectory,
    owns_ray: bool,
) -> Ingress:
    """Serve HTTP and gRPC; returns when clients are answered. Ray must be connected.

    Takes the Serve of the cluster if there is one, and its ports then. ``ray.serve`` must not have
    been imported: it fixes the kind of proxy.

    Args:
        settings: Of the frontend.
        host: Address the public ports bind to.
        http_port: 0: any.
        grpc_port: 0: any.
        run: Where the proxy's files go.
        owns_ray: Whether Ray is ours, and its Serve may be shut down.

    Raises:
        ConfigError: A port is taken, or the Serve that runs cannot carry us.
        IngressError: Serve or the frontend did not start; says why.
    """
    settings = replace(settings, key_accounts=run.path / "key-accounts")
    if is_serve_running():
        return _join_serve(settings, run)
    ports = choose_ports(host, http_port, grpc_port)
    proxy = _choose_proxy(settings, host, ports, run)
    settings = replace(settings, has_direct_ingress=proxy.mode == HAPROXY)
    os.environ.update(proxy.environment)
    if not loopback.is_possible():
        _accept_open_ports(settings)
    try:
        _start_serve(host, ports, proxy)
        handle = _run_app(settings, proxy.environment)
    except BaseException as error:
        reason = _failure(settings.app_name, error)
        _take_down(settings.app_name, run, owns_serve=owns_ray)
        if isinstance(error, Exception):
            raise IngressError(reason) from error
        raise
    return Ingress(
        http_address=f"{host}:{ports.http}",
        grpc_address=f"{host}:{ports.grpc}",
        mode=proxy.mode,
        note=proxy.note,
        ports=ports,
        _app_name=settings.app_name,
        _handle=handle,
        _run=run,
        _owns_serve=owns_ray,
    )


def check_ingress(host: str, http_port: int, grpc_port: int) -> None:
    """What would refuse the ingress, before minutes of loading. Ray must be connected.

    Raises:
        ConfigError: This is not the head node, a port is taken, or the Serve that runs cannot
            carry us.
    """
    if not _is_head_here():
        problem = "the public ports open on the head node of a Ray cluster: run galerne serve there"
        raise ConfigError("address", "this node", problem)
    if is_serve_running():
        check_usable(describe_running_serve(), app_name="")
        return
    check_port("http_port", host, http_port)
    check_port("grpc_port", host, grpc_port)


def _choose_proxy(
    settings: IngressSettings, host: str, ports: IngressPorts, run: RunDirectory
) -> _Proxy:
    max_body_bytes = settings.limits.max_body_bytes
    found = find_haproxy()
    if found.binary is None:
        environment = proxy_environment(
            max_body_bytes=max_body_bytes, is_loopback=is_loopback(host)
        )
        return _Proxy(SERVE_PROXY, environment, f"no HAProxy: {found.problem}")
    environment = haproxy_environment(
        ports,
        haproxy_dir=run.haproxy_dir,
        binary=write_wrapper(run, found.binary, host, ports),
        max_body_bytes=max_body_bytes,
        is_scaled=not settings.frontends.is_fixed,
    )
    return _Proxy(HAPROXY, environment)


def _is_head_here() -> bool:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node.is_head and node.id == here for node in alive_nodes())


def _accept_open_ports(settings: IngressSettings) -> None:
    problem = "this version of Ray Serve cannot keep its internal gRPC ports on loopback"
    if not settings.allow_insecure_network:
        raise ConfigError("insecure_network", settings.allow_insecure_network, problem)
    logger.warning("internal_ports_open reason=%s", problem)


def _start_serve(host: str, ports: IngressPorts, proxy: _Proxy) -> None:
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        # HAProxy's wrapper opens the public ports; everything else of Serve stays on loopback.
        http_options={
            "host": LOOPBACK if proxy.mode == HAPROXY else host,
            "port": ports.http,
        },
        grpc_options={"port": ports.grpc, "grpc_servicer_functions": list(SERVICERS)},
        # The same way for a cluster that was started without these variables.
        controller_options={"runtime_env": {"env_vars": dict(proxy.environment)}},
    )


def _run_app(settings: IngressSettings, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
    from ray import serve

    deployment = serve.deployment(
        **settings.frontends.deployment_options(),
        max_ongoing_requests=100_000,  # admission is the frontend's, which says when to try again
        max_queued_requests=-1,
        max_constructor_retry_count=1,  # it waits for a gateway itself, and tells why it gave up
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=CHECK_PERIOD_S,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        ray_actor_options={
            "num_cpus": 0,
            "resources": {HEAD_RESOURCE: 0.001},  # beside the proxy, which reaches it on loopback
            "runtime_env": {"env_vars": dict(environment)},
        },
    )
    # Without an app: ``__serve_build_asgi_app__`` makes it in the replica.
    app = deployment(serve.ingress()(GalerneIngress)).bind(settings)
    return serve.run(app, name=settings.app_name, route_prefix=ROUTE)


def _join_serve(settings: IngressSettings, run: RunDirectory) -> Ingress:
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # else our handle needs a loop
    running = describe_running_serve()
    check_usable(running, settings.app_name)
    settings = replace(settings, has_direct_ingress=running.is_haproxy)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        handle = _run_app(settings, {})
    except BaseException as error:
        reason = _failure(settings.app_name, error)
        _take_down(settings.app_name, run, owns_serve=False)
        if isinstance(error, Exception):
            raise IngressError(reason) from error
        raise
    needs_name = bool(running.route_by_app)
    return Ingress(
        http_address=f"{running.host}:{running.http_port}",
        grpc_address=f"{running.host}:{running.grpc_port}",
        mode=HAPROXY if running.is_haproxy else SERVE_PROXY,
        note=f"gRPC needs the metadata application={settings.app_name}" if needs_name else "",
        ports=None,
        _app_name=settings.app_name,
        _handle=handle,
        _run=run,
        _owns_serve=False,
    )


def _failure(app_name: str, error: BaseException) -> str:
    """The most telling words on a failed start: Serve quotes stacks, their last line says it."""
    from ray import serve

    try:
        status = serve.status().applications[app_name]
        messages = [deployment.message.strip() for deployment in status.deployments.values()]
    except Exception:  # noqa: BLE001 - Serve itself did not start
        messages = []
    text = "\n".join(filter(None, messages)) or str(error).strip()
    return text.splitlines()[-1][:500] if text else type(error).__name__


def _take_down(app_name: str, run: RunDirectory, *, owns_serve: bool) -> None:
    from ray import serve

    try:
        others = set(serve.status().applications) - {app_name}
        serve.delete(app_name)
        if owns_serve and not others:
            serve.shutdown()
    except Exception as error:  # noqa: BLE001 - leftovers end with Ray
        logger.warning("serve_shutdown_failed reason=%s", error)
        others = set()
    if owns_serve and not others:
        end_leftovers(run)
