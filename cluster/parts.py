"""The owner of a deployment that Ray Serve runs: starts its parts, watches and ends them.

``galerne serve`` owns its parts itself, and they end with it. Under Serve the owner is one replica
of a deployment of its own, and Serve may end or replace it at any time. So its parts are detached
actors, and what becomes of them is this:

* The application is deleted: frontends take no more requests, what runs has ``drain_s``, then every
  part is ended.
* It is deployed with other arguments: the same, and the next deployment waits for it.
* The replica dies: parts and streams go on, Serve starts another replica, and that takes over.
* Serve itself is gone, or brings no other replica within ``ORPHAN_AFTER_S``: the controller, which
  nobody asks any more which parts shall run, ends all parts and itself.
* The machine of Ray's head is lost: everything ends with Ray, unless Ray's state lies elsewhere and
  another head takes it up. Then Ray starts there what was on that machine, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.actors.launch_spec import LaunchSpec, controller_name
from cluster.config import ServeConfig
from cluster.control.starting import StartReport
from cluster.nodes import HEAD_RESOURCE
from cluster.open_head import wait_for_nodes
from cluster.session_files import remove_accounts
from galerne import logs
from galerne.errors import GalerneError, NotServingError
from router.api.beat import PERIOD_S

if TYPE_CHECKING:  # imports torch, which Serve needs not wait for when it builds the application
    from cluster.launch import Deployment

logger = logging.getLogger(__name__)

PARTS = "Parts"  # as Serve's pages show it
ORPHAN_AFTER_S = 120.0
_STOP_S = 15.0  # beyond the time to drain: telling frontends, ending actors
_TOLD_S = 2 * PERIOD_S  # until every frontend has heard


class Identity(NamedTuple):
    """What parts and frontends of one deployment agree on."""

    app_name: str
    cluster_token: str

    def __repr__(self) -> str:
        return f"Identity({self.app_name})"  # the token is a secret


class Parts:
    """Serve's replica. Ready when every part serves."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: ServeConfig, identity: Identity
    ) -> None:
        """Start the parts, or take over those of a replica that has died.

        Raises:
            GalerneError: They cannot be started; names setting or part.
        """
        logs.set_up(config.logs, PARTS.lower())
        self._config = config
        self._identity = identity
        self._deployment: Deployment | None = None
        self._is_ending = threading.Event()
        self._last_step = ""
        await asyncio.to_thread(self._bring_up)

    def _bring_up(self) -> None:
        from ray import serve  # late, as in the whole package: it fixes the kind of proxy

        from cluster.launch import Deployment
        from cluster.predecessors import wait_for_predecessors

        name = controller_name(self._identity.app_name)
        deployment = Deployment.take_over(name)
        is_new = deployment is None
        if deployment is None:
            serve_app = serve.get_replica_context().app_name
            patience_s = self._config.drain_s + _STOP_S + ORPHAN_AFTER_S
            wait_for_predecessors(serve_app, self._identity.app_name, patience_s)
            deployment = Deployment(replace(self._plan(), serve_app=serve_app))
        self._deployment = deployment
        try:
            deployment.wait(self._config.start_timeout_s, self._on_report)
        except GalerneError:
            if is_new:
                deployment.stop(0.0)
            raise
        logger.warning("parts_ready deployment=%s taken_over=%s", name, not is_new)

    def _plan(self) -> LaunchSpec:
        from cluster.scaling import find_calibration, plan_scaled

        config, on_step = self._config, self._on_step
        nodes = wait_for_nodes(config.await_nodes, config.start_timeout_s, on_step)
        stored = find_calibration(config, on_step)
        plan = plan_scaled(config, self._identity.app_name, nodes, stored)
        self._on_step(plan.kv_note)
        return replace(
            plan.spec,
            cluster_token=self._identity.cluster_token,
            orphan_after_s=ORPHAN_AFTER_S,
        )

    def _on_step(self, step: str) -> None:
        logger.warning("parts_start step=%s", step)

    def _on_report(self, report: StartReport) -> None:
        if self._is_ending.is_set():
            raise NotServingError("the application is being deleted")
        step = f"{len(report.ready)} part(s) ready"
        if step != self._last_step:
            self._last_step = step
            self._on_step(step)

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here; the next one takes over.

        Raises:
            NotServingError: Nobody would start a part that the controller wants.
        """
        deployment = self._deployment
        if deployment is None or not deployment.is_followed:
            raise NotServingError("the thread that follows the controller has ended")

    async def __del__(self) -> None:
        self._is_ending.set()
        if self._deployment is not None:
            await asyncio.to_thread(self._end, self._deployment)

    def _end(self, deployment: Deployment) -> None:
        drain_s = self._config.drain_s
        try:
            deployment.order_drain(drain_s)
        except Exception as error:  # noqa: BLE001 - border to Ray: parts must end nevertheless
            logger.warning("drain_not_ordered reason=%r", error)
        else:
            time.sleep(_TOLD_S)
        deployment.stop(drain_s)
        remove_accounts(self._identity.app_name)  # frontends have drained, and are on this node
        logger.warning("parts_ended deployment=%s", self._identity.app_name)


def parts_app(config: ServeConfig, identity: Identity) -> Any:  # noqa: ANN401 - Serve's own
    """The owner as a Serve application."""
    from ray import serve

    deployment = serve.deployment(
        name=PARTS,
        num_replicas=1,
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=config.drain_s + _STOP_S,
        health_check_period_s=2,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        ray_actor_options={"num_cpus": 0, "resources": {HEAD_RESOURCE: 0.001}},
    )
    return deployment(Parts).bind(config, identity)
