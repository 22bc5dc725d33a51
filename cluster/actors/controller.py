"""The controller: who serves what, and where. Never on the path of a token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from cluster.actors.launch_spec import LaunchSpec
from cluster.control.balancer import Balancer
from cluster.control.conductor import ChangeRefusedError, TopologyConductor
from cluster.control.events import EventLog
from cluster.control.explain import (
    NOT_CALIBRATED,
    Explainable,
    NoAutoscalerError,
    asked,
    decisions,
    explain,
    what_if_facts,
)
from cluster.control.health import HealthBook
from cluster.control.keeper import ExpertKeeper
from cluster.control.members import GONE_AFTER_S, HEARTBEAT_S, Heartbeat, MemberBook
from cluster.control.metrics import ControlMetrics
from cluster.control.part_client import PartClients, PartFailedError
from cluster.control.ports import GatewayState, PartCalls
from cluster.control.straighten import Serving, Straightener, newest
from cluster.control.target import check_alone, config_of, next_topology
from cluster.placement.availability import availability
from cluster.presets import PresetInputs
from galerne.errors import ConfigError, GalerneError, InvalidRequestError
from galerne.ids import GatewayId, ShardId
from galerne.topology import Topology
from router.api.cluster_port import (
    DecisionFacts,
    EventFacts,
    ScalerFacts,
    TopologyFacts,
    TopologyWish,
    WhatIfFacts,
    WhatIfQuestion,
)
from router.engine.gateway_port import PartFacts
from router.exchange.links import LinkState
from router.gateway.roster import Roster

logger = logging.getLogger(__name__)

_DESCRIBE_TIMEOUT_S = 2.0
_RECOVER_S = 10.0


@dataclass(slots=True)
class StartReport:
    """How far the parts have come, for the one who waits."""

    progress: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)


class Controller:
    """State is rebuilt after a restart, from heartbeats and from what gateways serve."""

    def __init__(
        self,
        spec: LaunchSpec,
        calls: PartCalls | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``calls`` unset: over the network."""
        self._spec = spec
        self._now_s = now_s
        self._born_s = now_s()
        self._progress: dict[str, tuple[str, int, int]] = {}
        self._actors: dict[str, Any] = {}  # handles of parts
        self._inputs = spec.inputs
        self._members = MemberBook(now_s)
        self._metrics = ControlMetrics()
        self._events = EventLog(lambda kind, part: self._metrics.events.labels(kind, part).inc())
        self._health = HealthBook()
        calls = calls or PartClients(spec.cluster_token, self._members.address_of)
        self._calls = calls
        self._conductor = TopologyConductor(spec.topology, calls, self._members, self._events)
        self._keeper = ExpertKeeper(
            lambda: self._conductor.current, self._health, calls, self._events, now_s=now_s
        )
        self._straightener = Straightener(self._conductor, calls, self._members, self._events)
        self._balancer = Balancer(
            lambda: self._conductor.current, calls, self._members, spec.expert_bytes, now_s=now_s
        )
        self._scaler: Explainable | None = None
        self._used_ids = set(spec.topology.parts)
        self._recovered = asyncio.Event()
        self._known: Topology | None = None  # what served when the driver last asked
        self._tasks = [asyncio.ensure_future(self._run())]

    async def _run(self) -> None:
        if self._is_restarted():
            await self._recover()
        self._recovered.set()
        for loop in (self._keeper, self._straightener, self._balancer):
            task = asyncio.create_task(loop.run())
            task.add_done_callback(_end_process)
            self._tasks.append(task)

    def _is_restarted(self) -> bool:
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)

    async def _recover(self) -> None:
        """Learn which topology serves, and go on with a change to it that had begun to commit."""
        started = self._now_s()
        serving = Serving(self._conductor.current)
        while self._now_s() - started < _RECOVER_S:
            await asyncio.sleep(HEARTBEAT_S)
            states = await self._gateway_states()
            serving = newest(states, self._known, self._spec.topology)
            self._conductor.current = serving.current
            if states and self._is_settled():
                break
        config = config_of(serving.current, self._inputs.config)
        self._inputs = replace(self._inputs, config=config)
        self._events.add("controller_recovered", "controller", f"epoch={serving.current.epoch}")
        if serving.old is not None:
            self._tasks.append(asyncio.create_task(self._conductor.resume(serving.old)))
            await asyncio.sleep(0)  # it has begun

    async def _gateway_states(self) -> dict[str, GatewayState]:
        states = {}
        for gateway in [p for p in self._members.members if p.startswith("gateway-")]:
            with contextlib.suppress(PartFailedError):
                states[gateway] = await self._calls.state_of(gateway, _DESCRIBE_TIMEOUT_S)
        return states

    # -- what parts say ----------------------------------------------------------------------

    async def heartbeat(self, told: Heartbeat, actor: Any = None) -> bool:  # noqa: ANN401 - Ray's
        """A part lives. Whether it may go on: one that was replaced, or has had to end, may not.

        ``actor``: its handle; by name it could not be found while Ray's head is away.
        """
        known = self._members.members.get(told.part)
        is_new = known is None or known.told.process != told.process
        if self._recovered.is_set() and not self._may_go_on(told, is_new=is_new):
            return False
        if not self._members.hear(told):
            return False
        self._actors[told.part] = actor
        self._used_ids.add(told.part)
        if is_new and known is not None:
            self._events.add("part_restarted", told.part, f"pid={told.pid}")
            self._health.forget(GatewayId(told.part))
            self._keeper.restarted(ShardId(told.part))
        if told.links:
            states = {ShardId(shard): LinkState(state) for shard, state in told.links.items()}
            changes = self._health.observe(GatewayId(told.part), states, self._now_s())
            for shard, state in changes:
                self._events.add(f"link_{state.value}", shard, f"seen_by={told.part}")
            if changes:
                self._keeper.wake()
        return True

    def _may_go_on(self, told: Heartbeat, *, is_new: bool) -> bool:
        """A gateway that loaded while its epoch was retired would wait for its shards for ever."""
        first = self._conductor.wanted.get(told.part)
        if first is None:
            return False
        is_gateway = told.part in first.gateways
        return not (is_new and is_gateway and max(told.epochs, default=first.epoch) < first.epoch)

    async def progress(self, part: str, what: str, done: int, of: int) -> None:
        """A part loads."""
        self._progress[part] = (what, done, of)

    async def failed(self, part: str, reason: str) -> None:
        """A part cannot start."""
        self._members.failed(part, reason)

    # -- what others ask ---------------------------------------------------------------------

    async def start_report(self) -> StartReport:
        """How far the parts have come."""
        return StartReport(self._progress, self._members.failures, sorted(self._members.members))

    async def wanted_parts(self, known: Topology | None = None) -> Mapping[str, Topology]:
        """Parts that shall run, and the topology that each starts in.

        ``known`` to serve by the driver: should all gateways be lost together with the controller,
        nobody else knows.
        """
        self._known = known or self._known
        await self._recovered.wait()
        return self._conductor.wanted

    async def ended(self, part: str) -> None:
        """A part that was no longer wanted has been ended."""
        self._members.forget(part)
        self._actors.pop(part, None)

    async def address_of(self, part: str) -> str | None:
        """Where a part listens, if it has said so lately."""
        return self._members.address_of(part)

    async def events(self, after: int = 0) -> list[EventFacts]:
        """What has happened since the event of that number."""
        return self._events.after(after)

    async def topology(self) -> TopologyFacts:
        """What serves, and how far a change has come."""
        await self._recovered.wait()
        conductor = self._conductor
        shown, target = conductor.current, conductor.target
        nodes = self._shards_by_node()
        return TopologyFacts(
            epoch=shown.epoch,
            mode=shown.mode.value,
            gateways=shown.gateways,
            shards=shown.shard_processes,
            transport=shown.transport.value,
            replicas=shown.placement.num_replicas,
            max_num_seqs=shown.max_num_seqs,
            max_batched_tokens=shown.max_batched_tokens,
            target_epoch=shown.epoch if target is None else target.epoch,
            stage=conductor.stage.value,
            last_error=conductor.last_error,
            availability=availability(shown.placement, nodes).text if nodes else "",
        )

    async def explain(self, number: int | None = None) -> ScalerFacts:
        """See ``ClusterPort``."""
        return explain(self._calibrated(), number)

    async def decisions(self, after: int = 0) -> list[DecisionFacts]:
        """See ``ClusterPort``."""
        return decisions(self._calibrated(), after)

    async def what_if(self, question: WhatIfQuestion) -> WhatIfFacts:
        """See ``ClusterPort``."""
        scaler = self._calibrated()
        wanted = asked(question, scaler.view())
        return await asyncio.to_thread(lambda: what_if_facts(scaler.plan_for(*wanted)))

    def _calibrated(self) -> Explainable:
        if self._scaler is None:
            raise NoAutoscalerError(NOT_CALIBRATED)
        return self._scaler

    async def set_topology(self, wish: TopologyWish) -> TopologyFacts:
        """Begin a change.

        Raises:
            ChangeRefusedError: One goes on, or parts are away.
            InvalidRequestError: The wish contradicts itself; names the field.
        """
        await self._recovered.wait()
        try:
            inputs, target = await self._target(wish)
        except ConfigError as error:
            problem = f"{error.problem}, got {error.value}"
            raise InvalidRequestError(error.key, problem) from error
        self._conductor.check(target)
        self._used_ids.update(target.parts)
        self._tasks.append(asyncio.create_task(self._change(target, inputs)))
        await asyncio.sleep(0)  # it has begun
        if self._conductor.target is not target:
            self._conductor.check(target)  # another was quicker
        return await self.topology()

    async def _target(self, wish: TopologyWish) -> tuple[PresetInputs, Topology]:
        current = self._conductor.current
        if not wish.rebalance:
            return next_topology(current, self._inputs, wish, self._used_ids)
        check_alone(wish, "rebalance")
        if not current.shard_processes:
            raise ChangeRefusedError("there are no shards to balance")
        await self._balancer.look()
        plan = await asyncio.to_thread(self._balancer.propose, self._shards_by_node())
        self._events.add("rebalance", "controller", plan.verdict.reason)
        if not plan.verdict.is_worth:
            raise ChangeRefusedError(f"rebalancing {plan.verdict.reason}")
        return self._inputs, plan.target

    def _shards_by_node(self) -> dict[str, list[ShardId]]:
        nodes: dict[str, list[ShardId]] = {}
        for shard in self._conductor.current.shard_processes:
            member = self._members.members.get(shard)
            nodes.setdefault(member.told.node if member else "unknown", []).append(shard)
        return nodes

    async def _change(self, target: Topology, inputs: PresetInputs) -> None:
        try:
            await self._conductor.change(target)
        except GalerneError as error:
            logger.warning("topology_change_failed epoch=%d reason=%s", target.epoch, error)
        finally:
            if self._conductor.current is target:
                self._inputs = inputs

    async def roster(self, with_metrics: bool = False) -> Roster:
        """Gateways and shards that live; facts and metrics of every part if asked for."""
        topology = self._conductor.current
        members = self._members.members
        live = {p: m.told.address for p, m in members.items() if self._members.is_live(p)}
        described = await self._describe(list(live)) if with_metrics else {}
        return Roster(
            is_settled=self._is_settled(),
            mode=topology.mode.value,
            epoch=topology.epoch,
            transport=topology.transport.value,
            micro_batches=topology.num_micro_batches,
            max_num_seqs=topology.max_num_seqs,
            max_batched_tokens=topology.max_batched_tokens,
            gateways={g: live[g] for g in topology.gateways if g in live},
            shards={s: live[s] for s in topology.shards if s in live},
            parts=tuple(self._facts(p, described.get(p, {})) for p in sorted(members)),
            process_metrics={
                "controller": self._metrics_text(),
                **{part: facts["metrics"] for part, facts in described.items()},
            }
            if with_metrics
            else {},
        )

    def _metrics_text(self) -> bytes:
        metrics = self._metrics
        metrics.epoch.set(self._conductor.current.epoch)
        metrics.balancedness.set(self._balancer.balancedness)
        metrics.lost_shards.set(len(self._keeper.lost))
        for name in ("keeper", "straightener", "balancer"):
            metrics.turns.labels(name).set(getattr(self, f"_{name}").turns)
        return metrics.text()

    def _is_settled(self) -> bool:
        """After a restart, heartbeats must come in before an absence means anything."""
        is_old = self._now_s() - self._born_s > GONE_AFTER_S
        gateways = self._conductor.current.gateways
        return is_old or all(gateway in self._members.members for gateway in gateways)

    def _facts(self, part: str, described: dict[str, Any]) -> PartFacts:
        member = self._members.members[part]
        described = described or {"unready_reason": "no answer"}
        known = PartFacts.__dataclass_fields__
        return PartFacts(
            **{name: value for name, value in described.items() if name in known},
            id=part,
            kind=part.partition("-")[0],
            address=member.told.address,
            node=member.told.node,
            pid=member.told.pid,
            restarts=member.restarts,
            is_live=self._members.is_live(part),
        )

    async def _describe(self, parts: list[str]) -> dict[str, dict[str, Any]]:
        """Ask the actors of these parts; those that do not answer in time are left out."""
        described = {}

        async def ask(part: str) -> None:
            with contextlib.suppress(Exception):  # a dead part is simply not described
                answer = self._actors[part].describe.remote()
                described[part] = await asyncio.wait_for(answer, _DESCRIBE_TIMEOUT_S)

        await asyncio.gather(*(ask(part) for part in parts))
        return described


def _end_process(loop: asyncio.Task[None]) -> None:
    """A loop that has died takes the controller with it: Ray starts another."""
    if not loop.cancelled():
        logger.critical("control_loop_died", exc_info=loop.exception())
        os._exit(1)
