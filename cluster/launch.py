"""Brings a deployment up on Ray and takes it down: controller, shards, gateways."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors.controller import Controller, StartReport
from cluster.actors.gateway import Gateway
from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.actors.shard import ExpertShard
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from shards.kernels.native.library import FAMILY_VARIABLE, SPIN_VARIABLE

_POLL_S = 0.1
_REPORT_TIMEOUT_S = 60.0  # the first answer waits for the controller process to start
_PLACE_TIMEOUT_S = 60.0
_SPIN_US = "200"  # longer than what lies between two layers
_CPU_PER_ACTOR = 0.1  # a claim for placement only; threads are set by the spec
_RESTARTS_WITHOUT_END = -1


class Deployment:
    """The actors of one running deployment."""

    def __init__(self, spec: LaunchSpec) -> None:
        """Create the actors; ``wait`` until they serve.

        Raises:
            ConfigError: Ray cannot place them.
        """
        self.spec = spec
        topology = spec.topology
        has_shards = topology.transport is not LinkTransport.LOCAL
        self._parts: list[str] = [*topology.gateways, *(topology.shards if has_shards else ())]
        self._actors: dict[str, Any] = {}
        self._begun: dict[Any, str] = {}  # done when the part's constructor is
        self._group: PlacementGroup | None = None
        self._controller = _remote(Controller, spec.controller_name, num_cpus=0).remote(spec)
        self._group = placement_group(
            [{"CPU": _CPU_PER_ACTOR}] * len(self._parts),
            strategy="SPREAD",
            name=f"{spec.app_name}-parts",
        )
        if not self._group.wait(_PLACE_TIMEOUT_S):
            self.stop(0.0)
            raise ConfigError("shards", len(self._parts), "Ray found no room for all parts in time")
        for index, part in enumerate(self._parts):
            self._create(part, index)

    def _create(self, part: str, index: int) -> None:
        is_gateway = part in self.spec.topology.gateways
        kind = Gateway if is_gateway else ExpertShard
        threads = self.spec.gateway_threads if is_gateway else self.spec.shard_threads
        has_cores = self.spec.topology.transport is LinkTransport.LOCAL
        actor = _remote(
            kind,
            self.spec.actor_name(part),
            num_cpus=_CPU_PER_ACTOR,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, index),
            runtime_env={"env_vars": _environment(threads, owns_cores=has_cores)},
        )
        self._actors[part] = actor.remote(self.spec, part)
        self._begun[self._actors[part].__ray_ready__.remote()] = part

    def wait(self, timeout_s: float, on_report: Callable[[StartReport], None]) -> None:
        """Return when every part serves.

        Raises:
            ConfigError: A part failed, or the time is over; names part and reason.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            report = self._report()
            on_report(report)
            for part, reason in report.failures.items():
                raise ConfigError(part, "failed to start", reason)
            self._raise_if_one_died()
            missing = sorted(set(self._parts) - set(report.ready))
            if not missing:
                return
            if time.monotonic() > deadline:
                raise ConfigError("start_timeout_s", timeout_s, f"not ready: {', '.join(missing)}")
            time.sleep(_POLL_S)

    def _raise_if_one_died(self) -> None:
        """An actor whose process cannot even begin reports nothing itself."""
        done, _ = ray.wait(list(self._begun), num_returns=len(self._begun), timeout=0)
        for begun in done:
            try:
                ray.get(begun)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise ConfigError(self._begun[begun], "failed to start", reason) from error

    def _report(self) -> StartReport:
        try:
            report: StartReport = ray.get(
                self._controller.start_report.remote(), timeout=_REPORT_TIMEOUT_S
            )
        except ray.exceptions.RayError as error:
            raise ConfigError("controller", self.spec.controller_name, str(error)) from error
        return report

    @property
    def pids(self) -> dict[str, int]:
        """Process of every part, as last reported."""
        roster = ray.get(self._controller.roster.remote(with_metrics=True), timeout=10)
        return {part.id: part.pid for part in roster.parts}

    def stop(self, drain_s: float) -> None:
        """Drain the gateways, then end every actor of this deployment and nothing else."""
        gateways = [a for p, a in self._actors.items() if p in self.spec.topology.gateways]
        ray.wait(
            [gateway.drain.remote(drain_s) for gateway in gateways],
            num_returns=len(gateways),
            timeout=drain_s + 5.0,
        ) if gateways else None
        for actor in (*self._actors.values(), self._controller):
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)


def _remote(kind: type, name: str, **options: Any) -> Any:  # noqa: ANN401 - Ray's own types
    return ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        max_restarts=_RESTARTS_WITHOUT_END,
        max_task_retries=_RESTARTS_WITHOUT_END,
        **options,
    )


def _environment(num_threads: int, *, owns_cores: bool) -> dict[str, str]:
    """Of an actor: what it computes with, on other nodes too."""
    # Pools of several processes on few cores must not spin against one another; gateways that
    # have the experts themselves keep their threads awake from one layer to the next.
    pools = {"OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if owns_cores:
        pools[SPIN_VARIABLE] = _SPIN_US
    return pools | {k: v for k, v in os.environ.items() if k in (FAMILY_VARIABLE, SPIN_VARIABLE)}
