"""Brings a deployment up on Ray and takes it down: controller, shards, gateways."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.actors.controller import Controller
from cluster.actors.gateway import Gateway
from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.actors.ray_groups import remove_groups
from cluster.actors.shard import ExpertShard
from cluster.control.standing import Spread, Standing
from cluster.control.starting import StartReport
from cluster.nodes import HEAD_RESOURCE, alive_nodes, node_by_part, nodes_with_gpus
from cluster.start_again import StartAgain
from galerne import logs
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from shards.cores import PASSIVE_POOLS
from shards.kernels.kinds import CUDA
from shards.kernels.native.families import FAMILY_VARIABLE, SPIN_VARIABLE
from shards.nccl.availability import queues_environment

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_FOLLOW_S = 0.2
_FOLLOW_STOP_S = 10.0
_REPORT_TIMEOUT_S = 60.0  # the first answer waits for the controller process to start
_END_TIMEOUT_S = 5.0
_PLACE_TIMEOUT_S = 60.0
_CPU_PER_ACTOR = 0.1  # a claim for placement only; threads are set by the spec
_RESTARTS_WITHOUT_END = -1


class Deployment:
    """The actors of one running deployment, and whoever owns them."""

    def __init__(self, spec: LaunchSpec, controller: Any = None) -> None:  # noqa: ANN401 - Ray's
        """Create the actors; ``wait`` until they serve.

        ``controller``: of a deployment that runs already, to become its owner; see ``take_over``.

        Raises:
            ConfigError: Ray cannot place them.
        """
        self.spec = spec
        topology = spec.topology
        self._known = Standing(topology=topology, is_auto=spec.is_auto)
        self._actors: dict[str, Any] = {}
        self._homes: dict[str, str] = {}  # node of each part
        self._begun: dict[Any, str] = {}  # done when the part's constructor is
        self._again = StartAgain()
        self._is_stopping = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="deployment", daemon=True)
        self._log_level: str | None = None  # that was asked for since the start
        self._controller = controller
        if controller is not None:
            self._parts = self._find_parts()
            return
        self._parts = list(topology.parts)
        self._homes = _find_room(spec, topology, spec.spread, {})
        self._controller = _remote(
            Controller,
            spec,
            spec.controller_name,
            num_cpus=0,
            resources={HEAD_RESOURCE: 0.001},  # other nodes may go without all being lost
        ).remote(spec)
        for part in self._parts:
            self._create(part, self._homes[part], topology)

    @classmethod
    def take_over(cls, controller_name: str) -> Deployment | None:
        """Own a deployment whose owner has ended without ending it; None if there is none.

        Its parts have gone on meanwhile; those that have ended for good are started again.

        Raises:
            ConfigError: Its controller does not answer.
        """
        try:
            controller = ray.get_actor(controller_name, namespace=NAMESPACE)
        except ValueError:
            return None
        try:
            spec: LaunchSpec = ray.get(controller.spec.remote(), timeout=_REPORT_TIMEOUT_S)
            return cls(spec, controller)
        except ray.exceptions.RayError as error:
            raise ConfigError("controller", controller_name, str(error)) from error

    def _find_parts(self) -> list[str]:
        """Handles and nodes of the parts that run; which parts shall."""
        asked = self._controller.wanted_parts.remote(), self._controller.roster.remote()
        wanted, roster = ray.get(list(asked), timeout=_REPORT_TIMEOUT_S)
        self._known = wanted.standing
        homes = {facts.id: facts.node for facts in roster.parts}
        for part in wanted.parts:
            with contextlib.suppress(ValueError):  # it has ended for good, and is started again
                self._actors[part] = ray.get_actor(self.spec.actor_name(part), NAMESPACE)
                self._homes[part] = homes.get(part, "")
        return list(wanted.parts)

    @property
    def is_followed(self) -> bool:
        """Whether parts are started and ended as the controller wants them."""
        return self._follower.is_alive()

    def _create(self, part: str, node: str, topology: Topology) -> None:
        is_gateway = part in topology.gateways
        kind = Gateway if is_gateway else ExpertShard
        threads = self.spec.gateway_threads if is_gateway else self.spec.shard_threads
        actor = _remote(
            kind,
            self.spec,
            self.spec.actor_name(part),
            num_cpus=_CPU_PER_ACTOR,
            num_gpus=gpus_of(self.spec, topology, is_gateway=is_gateway),
            # Soft: with the node gone, Ray restarts it on another.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
        )
        self._actors[part] = actor.remote(self.spec, part, topology, _environment(threads))
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
                self._follower.start()
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
                self._controller.start_report.remote(is_owner=True), timeout=_REPORT_TIMEOUT_S
            )
        except ray.exceptions.RayError as error:
            raise ConfigError("controller", self.spec.controller_name, str(error)) from error
        return report

    def order_drain(self, drain_s: float) -> None:
        """Have all frontends take no more requests, and end within ``drain_s`` what runs.

        Raises:
            RayError: The controller is away; then frontends go on until their gateways end.
        """
        order = self._controller.drain.remote(f"end-{self.spec.app_name}", drain_s)
        ray.get(order, timeout=_END_TIMEOUT_S)

    def note_metrics(self, process: str, text: bytes) -> None:
        """Have them shown with those of the parts; not waited for."""
        self._controller.note_metrics.remote(process, text)

    @property
    def pids(self) -> dict[str, int]:
        """Process of every part, as last reported."""
        roster = ray.get(self._controller.roster.remote(with_metrics=True), timeout=10)
        return {part.id: part.pid for part in roster.parts}

    def _follow(self) -> None:
        """Start and end actors as the controller wants them. They are ours, so that they end with
        us, and do not end with the controller.
        """
        while not self._is_stopping.wait(_FOLLOW_S):
            try:
                answer = self._controller.wanted_parts.remote(self._known)
                wanted = ray.get(answer, timeout=_REPORT_TIMEOUT_S)
                self._known = wanted.standing
                self._adjust(wanted.parts, wanted.spread)
                if wanted.log_level not in (None, self._log_level):
                    self._log_level = wanted.log_level
                    logs.set_level(self._log_level)
            except Exception as error:  # noqa: BLE001 - border to Ray: the controller is away
                logger.warning("follow_failed reason=%r", error)

    def _adjust(self, wanted: Mapping[str, Topology], spread: Spread | None) -> None:
        self._drop_failed(wanted)
        new = [part for part in wanted if part not in self._actors and self._again.may(part)]
        by_topology: dict[int, list[str]] = {}
        for part in new:
            by_topology.setdefault(wanted[part].epoch, []).append(part)
        for parts in by_topology.values():
            topology = wanted[parts[0]]
            try:
                staying = {part: self._homes[part] for part in self._actors}
                homes = _find_room(self.spec, topology, spread, staying)
            except ConfigError as error:
                for part in parts:
                    self._controller.failed.remote(part, str(error))
                continue
            if self._is_stopping.is_set():
                return
            for part in parts:
                self._homes[part] = homes[part]
                self._create(part, homes[part], topology)
        for part in [part for part in self._actors if part not in wanted]:
            ray.kill(self._actors[part], no_restart=True)
            ray.get(self._controller.ended.remote(part), timeout=_REPORT_TIMEOUT_S)
            del self._actors[part], self._homes[part]
            self._again.forget(part)

    def _drop_failed(self, wanted: Mapping[str, Topology]) -> None:
        """Forget parts that are wanted and whose constructor has raised, to start them again.

        Ray starts an actor again whose process dies, and none whose constructor raises. In a change
        such a part is soon wanted no longer; one that a cluster has woken with would be missed for
        ever.
        """
        if not self._begun:
            return
        done, _ = ray.wait(list(self._begun), num_returns=len(self._begun), timeout=0)
        for begun in done:
            part = self._begun.pop(begun)
            try:
                ray.get(begun)
            except ray.exceptions.ActorDiedError:
                if part in wanted and part in self._actors:
                    del self._actors[part], self._homes[part]
                    logger.warning("part_starts_again part=%s s=%g", part, self._again.failed(part))
            except ray.exceptions.RayError as error:
                logger.warning("part_start_unknown part=%s reason=%s", part, error)
            else:
                self._again.forget(part)

    def stop(self, drain_s: float) -> None:
        """Drain the gateways, then end every actor of this deployment and nothing else."""
        self._is_stopping.set()
        if self._follower.is_alive():
            self._follower.join(_FOLLOW_STOP_S)
        gateways = [a for p, a in self._actors.items() if p.startswith("gateway-")]
        ray.wait(
            [gateway.drain.remote(drain_s) for gateway in gateways],
            num_returns=len(gateways),
            timeout=drain_s + 5.0,
        ) if gateways else None
        for actor in (*self._actors.values(), self._controller):
            ray.kill(actor, no_restart=True)
        if self.spec.scaling is not None:
            remove_groups(self.spec)


def _find_room(
    spec: LaunchSpec, topology: Topology, spread: Spread | None, staying: Mapping[str, str]
) -> dict[str, str]:
    """The node of each part of a topology, as soon as the claims of new ones are free.

    ``staying``: nodes of parts that run already, those that the topology lacks among them.
    """
    num_new = len(set(topology.parts) - set(staying))
    gateway_nodes, shard_nodes = (None, 0) if spread is None else spread
    try:
        homes = node_by_part(
            topology.gateways,
            topology.shard_processes,
            nodes_with_gpus(
                alive_nodes(),
                gateways=gpus_of(spec, topology, is_gateway=True) > 0,
                shards=gpus_of(spec, topology, is_gateway=False) > 0,
            ),
            num_replicas=topology.placement.num_replicas,
            cpu_per_part=_CPU_PER_ACTOR,
            gateway_nodes=gateway_nodes,
            shard_nodes=shard_nodes,
            staying=staying,
            on_gpus=parts_on_gpus(spec, topology, staying),
        )
    except ValueError as error:
        raise ConfigError("shards", len(topology.shards), str(error)) from error
    deadline = time.monotonic() + _PLACE_TIMEOUT_S
    while ray.available_resources().get("CPU", 0.0) < num_new * _CPU_PER_ACTOR:
        if time.monotonic() > deadline:
            raise ConfigError("shards", len(topology.shards), "Ray's CPUs are all claimed")
        time.sleep(_POLL_S)
    return homes


def _remote(kind: type, spec: LaunchSpec, name: str, **options: Any) -> Any:  # noqa: ANN401
    if spec.orphan_after_s is not None:
        options["lifetime"] = "detached"  # else they end with the process that is their owner
    return ray.remote(kind).options(
        name=name,
        namespace=NAMESPACE,
        max_restarts=_RESTARTS_WITHOUT_END,
        max_task_retries=_RESTARTS_WITHOUT_END,
        **options,
    )


def gpus_of(spec: LaunchSpec, topology: Topology, *, is_gateway: bool) -> int:
    """GPUs that a part claims: Ray shows an actor those alone that it has claimed."""
    device = spec.device if is_gateway else spec.shard_device
    return int(device == CUDA or topology.transport is LinkTransport.NCCL)


def parts_on_gpus(spec: LaunchSpec, topology: Topology, staying: Iterable[str]) -> set[str]:
    """Of the topology's parts and those that run already. Pure."""
    return {
        part
        for part in (*topology.parts, *staying)
        if gpus_of(spec, topology, is_gateway=part.startswith("gateway-"))
    }


def _environment(num_threads: int) -> dict[str, str]:
    """Of an actor: what it computes with, on other nodes too."""
    pools = PASSIVE_POOLS | {"OMP_NUM_THREADS": str(num_threads)} | queues_environment(os.environ)
    return pools | {k: v for k, v in os.environ.items() if k in (FAMILY_VARIABLE, SPIN_VARIABLE)}
