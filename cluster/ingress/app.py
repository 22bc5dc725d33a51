"""Starts the public ports on Ray Serve, and ends them in the right order."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.ingress.environment import choose_ports, haproxy_environment, proxy_environment
from cluster.ingress.existing import (
    RunningServe,
    check_usable,
    describe_running_serve,
    is_serve_running,
    kill_serve,
)
from cluster.ingress.haproxy import end_leftovers, find_haproxy, write_wrapper
from cluster.ingress.replicas import kill_frontends
from cluster.ingress.settings import IngressSettings
from cluster.ingress.starting import Proxy, ServeStart
from cluster.nodes import alive_nodes
from cluster.ports import check_port, is_loopback
from cluster.run_directory import RunDirectory
from galerne.errors import ConfigError, GalerneError

logger = logging.getLogger(__name__)

HAPROXY, SERVE_PROXY = "HAProxy", "Serve proxy"
_CLOSE_TIMEOUT_S = 10.0  # beyond the time to drain
_SETTLE_S = 15.0  # for what goes on when the start is given up


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
    """The ingress: on its way beside the parts of the deployment, and running after ``finish``."""

    http_address: str  # host:port
    grpc_address: str
    mode: str  # HAPROXY or SERVE_PROXY
    note: str  # why not HAProxy, or what clients of a shared Serve must send; mostly empty
    _app_name: str
    _start: ServeStart
    _run: RunDirectory
    _owns_serve: bool  # on a Ray that is not ours, a Serve that we started stays

    def finish(self, timeout_s: float) -> None:
        """Returns when clients are answered.

        Raises:
            ConfigError: A setting cannot be kept.
            IngressError: Serve or the frontend did not start; says why.
        """
        try:
            self._start.wait(timeout_s)
        except BaseException as error:
            reason = _failure(self._app_name, error)
            self.close()
            if isinstance(error, Exception) and not isinstance(error, ConfigError):
                raise IngressError(reason) from error
            raise

    def close(self, drain_s: float = 0.0) -> None:
        """Stop admitting, give running requests ``drain_s``, then free the ports.

        A Serve that was running before us, or carries others by now, goes on.
        """
        if self._start.handle is None:
            self._give_up()
        if self._start.handle is None:
            return
        # By Ray, and not by the replicas' gRPC ports: those are on loopback, and Serve looks for
        # them at the node's address.
        handle = self._start.handle.options(_by_reference=True)
        try:
            handle.broadcast("close", drain_s).results(timeout_s=drain_s + _CLOSE_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must go
            logger.warning("ingress_close_failed reason=%s", error)
            kill_frontends(self._app_name)
        _take_down(self._app_name, self._run, owns_serve=self._owns_serve)

    def _give_up(self) -> None:
        """End what is on its way, and wait until no thread asks Ray, which is left next."""
        if self._owns_serve:  # the rest of it ends with our Ray
            kill_serve()
        else:
            _take_down(self._app_name, self._run, owns_serve=False)
        self._start.settle(_SETTLE_S)
        if self._owns_serve:
            end_leftovers(self._run)


def start_ingress(
    settings: IngressSettings,
    *,
    host: str,
    http_port: int,
    grpc_port: int,
    run: RunDirectory,
    owns_ray: bool,
    proxy: Proxy | None = None,
) -> Ingress:
    """Begin to serve HTTP and gRPC; ``finish`` tells when. Ray must be connected.

    Takes the Serve of the cluster if there is one, and its ports then. ``ray.serve`` must not have
    been imported: it fixes the kind of proxy.

    Args:
        settings: Of the frontend.
        host: Address the public ports bind to.
        http_port: 0: any.
        grpc_port: 0: any.
        run: Where the proxy's files go.
        owns_ray: Whether Ray is ours, and its Serve may be shut down.
        proxy: What ``choose_proxy`` gave before our Ray was started with its variables.

    Raises:
        ConfigError: A port is taken, or the Serve that runs cannot carry us.
    """
    settings = replace(settings, key_accounts=run.path / "key-accounts")
    if is_serve_running():
        os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"  # else our handle needs a loop
        running = describe_running_serve()
        check_usable(running, settings.app_name)
        settings = replace(settings, has_direct_ingress=running.is_haproxy)
        return _joined(ServeStart(settings, None, {}), settings, running, run)
    environment: Mapping[str, str] = {}
    if proxy is None:
        max_body_bytes = settings.limits.max_body_bytes
        is_scaled = not settings.frontends.is_fixed
        proxy = choose_proxy(host, http_port, grpc_port, run, max_body_bytes, is_scaled=is_scaled)
        environment = proxy.environment  # for a cluster that was started without it
    settings = replace(settings, has_direct_ingress=proxy.mode == HAPROXY)
    return Ingress(
        http_address=f"{proxy.host}:{proxy.ports.http}",
        grpc_address=f"{proxy.host}:{proxy.ports.grpc}",
        mode=proxy.mode,
        note=proxy.note,
        _app_name=settings.app_name,
        _start=ServeStart(settings, proxy, environment),
        _run=run,
        _owns_serve=owns_ray,
    )


def _joined(
    start: ServeStart, settings: IngressSettings, running: RunningServe, run: RunDirectory
) -> Ingress:
    needs_name = bool(running.route_by_app)
    return Ingress(
        http_address=f"{running.host}:{running.http_port}",
        grpc_address=f"{running.host}:{running.grpc_port}",
        mode=HAPROXY if running.is_haproxy else SERVE_PROXY,
        note=f"gRPC needs the metadata application={settings.app_name}" if needs_name else "",
        _app_name=settings.app_name,
        _start=start,
        _run=run,
        _owns_serve=False,
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


def choose_proxy(
    host: str,
    http_port: int,
    grpc_port: int,
    run: RunDirectory,
    max_body_bytes: int,
    *,
    is_scaled: bool,
) -> Proxy:
    """Choose ports and the kind of proxy, and set the variables for it in this process.

    A Ray that is started afterwards hands them on to all its processes. ``is_scaled``: whether
    there may be more than one frontend.

    Raises:
        ConfigError: A port is taken; names it.
    """
    ports = choose_ports(host, http_port, grpc_port)
    found = find_haproxy()
    if found.binary is None:
        mode, note = SERVE_PROXY, f"no HAProxy: {found.problem}"
        environment = proxy_environment(
            max_body_bytes=max_body_bytes, is_loopback=is_loopback(host)
        )
    else:
        mode, note = HAPROXY, ""
        environment = haproxy_environment(
            ports,
            haproxy_dir=run.haproxy_dir,
            binary=write_wrapper(run, found.binary, host, ports),
            max_body_bytes=max_body_bytes,
            is_scaled=is_scaled,
        )
    os.environ.update(environment)
    return Proxy(host=host, ports=ports, mode=mode, environment=environment, note=note)


def _is_head_here() -> bool:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node.is_head and node.id == here for node in alive_nodes())


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
