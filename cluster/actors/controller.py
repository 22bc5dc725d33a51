"""The controller: who serves what, and where. Never on the path of a token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.control.conductor import TopologyConductor
from cluster.control.events import EventLog
from cluster.control.health import HealthBook
from cluster.control.keeper import ExpertKeeper
from cluster.control.members import GONE_AFTER_S, HEARTBEAT_S, Heartbeat, MemberBook
from cluster.control.part_client import PartClients, PartFailedError
from cluster.control.straighten import Straightener, newest
from cluster.control.target import next_topology
from cluster.placement.availability import availability
from cluster.presets import PresetInputs
from galerne.errors import GalerneError
from galerne.ids import GatewayId, ShardId
from galerne.topology import Topology
from router.api.cluster_port import EventFacts, TopologyFacts, TopologyWish
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

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        self._born_s = time.monotonic()
        self._progress: dict[str, tuple[str, int, int]] = {}
        self._failures: dict[str, str] = {}
        self._inputs = spec.inputs
        self._members = MemberBook()
        self._events = EventLog()
        self._health = HealthBook()
        clients = PartClients(spec.cluster_token, self._members.address_of)
        self._clients = clients
        self._conductor = TopologyConductor(spec.topology, clients, self._members, self._events)
        self._keeper = ExpertKeeper(
            lambda: self._conductor.current, self._health, clients, self._events
        )
        self._straightener = Straightener(self._conductor, clients, self._members, self._events)
        self._used_ids = set(spec.topology.parts)
        self._recovered = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._run())]

    async def _run(self) -> None:
        if ray.get_runtime_context().was_current_actor_reconstructed:
            await self._recover()
        self._recovered.set()
        self._tasks.append(asyncio.create_task(self._keeper.run()))
        self._tasks.append(asyncio.create_task(self._straightener.run()))

    async def _recover(self) -> None:
        """Learn from the gateways which topology serves."""
        started = time.monotonic()
        while time.monotonic() - started < _RECOVER_S:
            await asyncio.sleep(HEARTBEAT_S)
            states = []
            for gateway in [p for p in self._members.members if p.startswith("gateway-")]:
                with contextlib.suppress(PartFailedError):
                    states.append(await self._clients.state_of(gateway, _DESCRIBE_TIMEOUT_S))
            if states:
                self._conductor.current = newest(states, self._conductor.current)
                if self._is_settled():
                    break
        epoch = self._conductor.current.epoch
        self._events.add("controller_recovered", "controller", f"epoch={epoch}")

    # -- what parts say ----------------------------------------------------------------------

    async def heartbeat(self, told: Heartbeat) -> bool:
        """A part lives. Whether it may go on: one that was replaced may not."""
        known = self._members.members.get(told.part)
        is_new = known is None or known.told.process != told.process
        if not self._members.hear(told):
            return False
        self._used_ids.add(told.part)
        if is_new and known is not None:
            self._events.add("part_restarted", told.part, f"pid={told.pid}")
            self._health.forget(GatewayId(told.part))
            self._keeper.restarted(ShardId(told.part))
        if told.links:
            states = {ShardId(shard): LinkState(state) for shard, state in told.links.items()}
            changes = self._health.observe(GatewayId(told.part), states, time.monotonic())
            for shard, state in changes:
                self._events.add(f"link_{state.value}", shard, f"seen_by={told.part}")
            if changes:
                self._keeper.wake()
        return True

    async def progress(self, part: str, what: str, done: int, of: int) -> None:
        """A part loads."""
        self._progress[part] = (what, done, of)

    async def failed(self, part: str, reason: str) -> None:
        """A part cannot start."""
        self._failures[part] = reason
        self._members.failed(part, reason)

    # -- what others ask ---------------------------------------------------------------------

    async def start_report(self) -> StartReport:
        """How far the parts have come."""
        return StartReport(self._progress, self._failures, sorted(self._members.members))

    async def wanted_parts(self) -> Mapping[str, Topology]:
        """Parts that shall run, and the topology that each starts in."""
        await self._recovered.wait()
        return self._conductor.wanted

    async def ended(self, part: str) -> None:
        """A part that was no longer wanted has been ended."""
        self._members.forget(part)

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
        nodes: dict[str, list[ShardId]] = {}
        for shard in shown.shard_processes:
            member = self._members.members.get(shard)
            nodes.setdefault(member.told.node if member else "unknown", []).append(shard)
        return TopologyFacts(
            epoch=shown.epoch,
            mode=shown.mode.value,
            gateways=shown.gateways,
            shards=shown.shard_processes,
            transport=shown.transport.value,
            replicas=min(len(r) for layer in shown.placement.by_layer for r in layer),
            max_num_seqs=shown.max_num_seqs,
            max_batched_tokens=shown.max_batched_tokens,
            target_epoch=shown.epoch if target is None else target.epoch,
            stage=conductor.stage.value,
            last_error=conductor.last_error,
            availability=availability(shown.placement, nodes).text if nodes else "",
        )

    async def set_topology(self, wish: TopologyWish) -> TopologyFacts:
        """Begin a change.

        Raises:
            ChangeRefusedError: One goes on, or parts are away.
            ConfigError: The wish contradicts itself.
        """
        await self._recovered.wait()
        inputs, target = next_topology(self._conductor.current, self._inputs, wish, self._used_ids)
        self._conductor.check(target)
        self._used_ids.update(target.parts)
        self._tasks.append(asyncio.create_task(self._change(target, inputs)))
        await asyncio.sleep(0)  # it has begun
        return await self.topology()

    async def _change(self, target: Topology, inputs: PresetInputs) -> None:
        try:
            await self._conductor.change(target)
            self._inputs = inputs
        except GalerneError as error:
            logger.warning("topology_change_failed epoch=%d reason=%s", target.epoch, error)

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
            process_metrics={part: facts["metrics"] for part, facts in described.items()},
        )

    def _is_settled(self) -> bool:
        """After a restart, heartbeats must come in before an absence means anything."""
        is_old = time.monotonic() - self._born_s > GONE_AFTER_S
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
                actor = ray.get_actor(self._spec.actor_name(part), namespace=NAMESPACE)
                answer = actor.describe.remote()
                described[part] = await asyncio.wait_for(answer, _DESCRIBE_TIMEOUT_S)

        await asyncio.gather(*(ask(part) for part in parts))
        return described
