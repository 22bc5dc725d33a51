"""Serve and our application on it, coming up beside whatever else starts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.ingress import loopback
from cluster.ingress.environment import IngressPorts
from cluster.ingress.existing import ROUTE, SERVICERS, is_serve_running
from cluster.ingress.leaving import CHECK_PERIOD_S
from cluster.ingress.settings import IngressSettings
from cluster.nodes import HEAD_RESOURCE
from cluster.ports import LOOPBACK
from galerne.errors import ConfigError

logger = logging.getLogger(__name__)

FRONTEND = "Frontend"  # as Serve's pages show it
_POLL_S = 0.1
_CONTROLLER_TIMEOUT_S = 60.0  # until Serve has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """How clients reach the frontend: where, and by which kind of proxy."""

    host: str
    ports: IngressPorts
    mode: str
    environment: Mapping[str, str]  # that Serve's processes need
    note: str = ""


class ServeStart:
    """Begun in threads of its own; see ``wait``."""

    def __init__(
        self, settings: IngressSettings, proxy: Proxy | None, environment: Mapping[str, str]
    ) -> None:
        """Begin.

        Args:
            settings: Of the frontend.
            proxy: Of the Serve to be started; None: one runs already.
            environment: For Serve's processes, where they do not have it from Ray.
        """
        self._app_name = settings.app_name
        self._tasks: list[Future[Any]] = []
        if proxy is not None:
            start = partial(_start_serve, proxy, environment, settings)
            self._tasks.append(_begin("serve", start))
        self._app = _begin("serve-app", partial(self._run_app, settings, environment))
        self._tasks.append(self._app)

    def wait(self, timeout_s: float) -> None:
        """Until clients are answered.

        Raises:
            TimeoutError: They are not in time.
            Exception: What Serve or the frontend failed with.
        """
        done, waiting = futures.wait(self._tasks, timeout_s, futures.FIRST_EXCEPTION)
        for task in self._tasks:  # that of Serve first: the other one's error is its consequence
            if task in done:
                task.result()
        if waiting:
            raise TimeoutError(f"clients are not answered after {timeout_s:g} s")

    @property
    def handle(self) -> Any:  # noqa: ANN401 - Serve's
        """The application's, None while clients are not answered."""
        is_up = self._app.done() and self._app.exception() is None
        return self._app.result() if is_up else None

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing goes on in threads, whatever came of it."""
        if futures.wait(self._tasks, timeout_s).not_done:
            logger.warning("serve_still_starting")

    def _run_app(self, settings: IngressSettings, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
        """Deploy as soon as there is a Serve, its proxies may still be on their way."""
        deadline = time.monotonic() + _CONTROLLER_TIMEOUT_S
        while not is_serve_running():
            if any(task.done() and task.exception() for task in self._tasks):
                raise RuntimeError("Serve did not start")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Serve has no controller after {_CONTROLLER_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        return _deploy(settings, environment)


def _begin(name: str, work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - for the one who waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _start_serve(proxy: Proxy, environment: Mapping[str, str], settings: IngressSettings) -> None:
    """Returns when its proxies are there."""
    if not loopback.is_possible():
        _accept_open_ports(settings)
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        # HAProxy's wrapper opens the public ports; everything else of Serve stays on loopback.
        http_options={
            "host": LOOPBACK if settings.has_direct_ingress else proxy.host,
            "port": proxy.ports.http,
        },
        grpc_options={"port": proxy.ports.grpc, "grpc_servicer_functions": list(SERVICERS)},
        controller_options=_runtime_env(environment),
    )


def _accept_open_ports(settings: IngressSettings) -> None:
    problem = "this version of Ray Serve cannot keep its internal gRPC ports on loopback"
    if not settings.allow_insecure_network:
        raise ConfigError("insecure_network", settings.allow_insecure_network, problem)
    logger.warning("internal_ports_open reason=%s", problem)


def _deploy(settings: IngressSettings, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
    from ray import serve

    app = frontend_app(settings, environment)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with _quick_polls():
        return serve.run(app, name=settings.app_name, route_prefix=ROUTE)


def frontend_app(
    settings: IngressSettings,
    environment: Mapping[str, str],
    shutdown_s: float | None = None,
    owner: Any = None,  # noqa: ANN401 - Serve's own
) -> Any:  # noqa: ANN401 - Serve's own
    """The frontends as a Serve application.

    Args:
        settings: Of them.
        environment: Variables of their processes.
        shutdown_s: Seconds that Serve waits for what runs when they end; None: as the settings say.
        owner: An application that Serve is to run beside it; see ``cluster.parts``.
    """
    from ray import serve

    from cluster.ingress.deployment import GalerneIngress  # late: what a frontend needs is much

    options = settings.frontends.deployment_options()
    if shutdown_s is not None:
        options["graceful_shutdown_timeout_s"] = shutdown_s
    deployment = serve.deployment(
        **options,
        name=FRONTEND,
        max_ongoing_requests=100_000,  # admission is the frontend's, which says when to try again
        max_queued_requests=-1,
        max_constructor_retry_count=1,  # it waits for a gateway itself, and tells why it gave up
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=CHECK_PERIOD_S,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        ray_actor_options={
            "num_cpus": 0,
            "resources": {HEAD_RESOURCE: 0.001},  # beside the proxy, which reaches it on loopback
            **_runtime_env(environment),
        },
    )
    # Without an app: ``__serve_build_asgi_app__`` makes it in the replica.
    return deployment(serve.ingress()(GalerneIngress)).bind(settings, owner)


@contextmanager
def _quick_polls() -> Iterator[None]:
    """Serve looks whether an application runs once a second, and has no setting for it."""
    from ray.serve._private import client

    name = "CLIENT_POLLING_INTERVAL_S"
    usual = getattr(client, name, None)
    if usual is not None:
        setattr(client, name, _POLL_S)
    try:
        yield
    finally:
        if usual is not None:
            setattr(client, name, usual)


def _runtime_env(environment: Mapping[str, str]) -> dict[str, Any]:
    """Variables that a process does not have from Ray; without any it needs no runtime_env."""
    return {"runtime_env": {"env_vars": dict(environment)}} if environment else {}
