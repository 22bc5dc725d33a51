"""One running server: Ray, the deployment's actors and the ingress, up and down in order."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.actors.launch_spec import NAMESPACE
from cluster.config import ServeConfig
from cluster.control.starting import StartReport
from cluster.nodes import Node
from cluster.open_head import check_open_head, open_head_of, token_place, wait_for_nodes
from cluster.ports import LOOPBACK, check_port
from cluster.run_directory import RunDirectory
from cluster.runtime import RayRuntime, join_ray, start_local_ray
from cluster.shutdown import Shutdown
from router.api.keys import read_entries
from shards.cores import available_cores

if TYPE_CHECKING:  # these import ray, which must see our environment first
    from cluster.edge.keeper import Edge
    from cluster.ingress.app import Ingress
    from cluster.ingress.frontend_scaling import FrontendScaling
    from cluster.ingress.starting import Proxy
    from cluster.launch import Deployment
    from cluster.plan import ServePlan
    from router.api.inputs import ApiLimits

logger = logging.getLogger(__name__)

_INGRESS_TIMEOUT_S = 120.0  # once all parts serve


class Server:
    """A server and everything it has started. Use as a context manager."""

    def __init__(self, config: ServeConfig, shutdown: Shutdown) -> None:
        self.config = config
        self._shutdown = shutdown
        self._run = RunDirectory()
        self._runtime: RayRuntime | None = None
        self.plan: ServePlan | None = None
        self.deployment: Deployment | None = None
        self.ingress: Ingress | None = None
        self.edge: Edge | None = None

    def start(
        self, on_step: Callable[[str], None], on_report: Callable[[StartReport], None]
    ) -> None:
        """Bring everything up; returns when clients are answered.

        Args:
            on_step: Told in words what happens now.
            on_report: Told how far the parts have loaded.

        Raises:
            GalerneError: It cannot be; says why.
        """
        config = self.config
        _check_keys(config)
        if config.tls is not None:
            from cluster.edge.start import check_edge  # late, as below: few need it

            check_edge(config)
        check_open_head(config, os.environ)
        if config.address is None:
            is_alone = config.ray_head is None
            plan = self._plan(on_step, ()) if is_alone else None  # before Ray: it may refuse
            check_port("http_port", config.host, config.http_port)
            check_port("grpc_port", config.host, config.grpc_port)
            on_step("starting Ray")
            proxy = self._choose_proxy()
            self._runtime = self._start_ray()
        else:
            plan, proxy = None, None
            on_step(f"joining Ray at {config.address}")
            self._runtime = join_ray(
                config.address, namespace=NAMESPACE, deferred=self._shutdown.deferred
            )
        if plan is None:
            nodes = wait_for_nodes(config.await_nodes, config.start_timeout_s, on_step)
            plan = self._plan(on_step, nodes)
        self.plan = plan
        from cluster.ingress.app import check_ingress
        from cluster.launch import Deployment

        check_ingress(config.host, config.http_port, config.grpc_port)
        on_step(f"loading {plan.spec.checkpoint}")
        on_step(plan.kv_note)
        self.deployment = Deployment(plan.spec)
        self.ingress = self._begin_ingress(plan, proxy)  # beside the parts: both take seconds
        self.deployment.wait(config.start_timeout_s, on_report)
        on_step("starting the ingress")
        self.ingress.finish(_INGRESS_TIMEOUT_S)
        if config.tls is not None:
            self._start_edge(self.ingress, self.deployment)

    def _choose_proxy(self) -> Proxy:
        from cluster.ingress.app import choose_proxy

        limits, is_scaled = self._api_limits, not self._frontends.is_fixed
        return choose_proxy(
            *self._inner_address, self._run, limits.max_body_bytes, is_scaled=is_scaled
        )

    @property
    def _inner_address(self) -> tuple[str, int, int]:
        """Host, HTTP port and gRPC port of Serve: behind the edge, all of it is on loopback."""
        config = self.config
        is_plain = config.tls is None
        return (config.host, config.http_port, config.grpc_port) if is_plain else (LOOPBACK, 0, 0)

    @property
    def _frontends(self) -> FrontendScaling:
        return self.config.frontends.scaling(available_cores())

    @property
    def _api_limits(self) -> ApiLimits:
        from cluster.ingress.settings import api_limits

        return api_limits(self.config)

    def _begin_ingress(self, plan: ServePlan, proxy: Proxy | None) -> Ingress:
        from cluster.ingress.app import start_ingress
        from cluster.ingress.settings import ingress_settings

        assert self._runtime is not None
        settings = ingress_settings(
            self.config,
            app_name=plan.spec.app_name,
            cluster_token=plan.spec.cluster_token,
            tls=plan.spec.tls,
            tokenizer=plan.tokenizer_directory,
            limits=self._api_limits,
            frontends=self._frontends,
        )
        host, http_port, grpc_port = self._inner_address
        return start_ingress(
            settings,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            run=self._run,
            owns_ray=self._runtime.is_ours,
            proxy=proxy,
        )

    def _start_edge(self, ingress: Ingress, deployment: Deployment) -> None:
        from cluster.edge.start import start_edge

        def on_metrics(text: bytes) -> None:
            deployment.note_metrics("edge", text)

        behind = ingress.http_address, ingress.grpc_address
        max_body_bytes = self._api_limits.max_body_bytes
        self.edge = start_edge(self.config, behind, max_body_bytes, self._run, on_metrics)

    @property
    def urls(self) -> tuple[str, str]:
        """Where clients find HTTP and gRPC."""
        assert self.ingress is not None
        if self.edge is None:
            return f"http://{self.ingress.http_address}", f"grpc://{self.ingress.grpc_address}"
        told, host = self.edge.settings, self.config.host
        return f"https://{host}:{told.http_port}", f"grpcs://{host}:{told.grpc_port}"

    def _plan(self, on_step: Callable[[str], None], nodes: Sequence[Node]) -> ServePlan:
        from cluster.scaling import find_calibration, plan_scaled

        stored = find_calibration(self.config, on_step)
        return plan_scaled(self.config, f"galerne-{secrets.token_hex(4)}", nodes, stored)

    def _start_ray(self) -> RayRuntime:
        wanted = self.config.ray_storage
        head = open_head_of(self.config)
        told = None if head is None else head.num_cpus
        return start_local_ray(
            self._run,
            # Claims of our actors are fractions.
            num_cpus=max(4, available_cores()) if told is None else told,
            namespace=NAMESPACE,
            storage=None if wanted == "off" else self._run.make_storage(wanted),
            dashboard_port=self.config.dashboard_port,
            head=head,
            deferred=self._shutdown.deferred,
        )

    @property
    def dashboard_note(self) -> str:
        """Where Ray's dashboard is, and what it asks for; or nothing."""
        url = self._runtime.dashboard_url if self._runtime is not None else ""
        is_alone = self.config.ray_head is None
        place = self._run.token_file if is_alone else token_place(os.environ)
        return url and f"Ray dashboard {url}, its token in {place}"

    @property
    def head_note(self) -> str:
        """What the loss of Ray's head would cost, or nothing."""
        return self._runtime.note if self._runtime is not None else ""

    def close(self) -> None:
        """Drain, then end what was started, and nothing else. Hears no more signals."""
        self._shutdown.ignore()
        steps: list[Callable[[], None]] = []
        if self.ingress is not None:
            ingress = self.ingress
            steps.append(lambda: ingress.close(self.config.drain_s))
        if self.edge is not None:
            steps.append(self.edge.close)
        if self.deployment is not None:
            deployment = self.deployment
            steps.append(lambda: deployment.stop(1.0))
        if self._runtime is not None:
            steps.append(self._runtime.leave)
        if self._runtime is None or self._runtime.is_ours:
            steps.append(self._run.close)
        else:  # a Serve that we started there keeps its proxy's files
            steps.append(self._run.close_unless_in_use)
        for step in steps:
            try:
                step()
            except Exception:  # what is left must still be ended
                logger.exception("shutdown_step_failed")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_keys(config: ServeConfig) -> None:
    """Before anything starts; the frontend, on this host, reads and watches them itself."""
    for path in (config.api_keys_file, config.admin_keys_file):
        if path is not None:
            read_entries(path)
