"""The controller: who serves what, and where. Never on the path of a token."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from cluster.actors.launch_spec import LaunchSpec
from cluster.actors.ray_groups import RayGroups
from cluster.actors.ray_side import RaySide
from cluster.control.adapter_answers import AdapterAnswers
from cluster.control.balancer import Balancer
from cluster.control.changes import Changes, named_fields
from cluster.control.conductor import TopologyConductor
from cluster.control.events import EventLog
from cluster.control.explain import (
    AUTO,
    NOT_CALIBRATED,
    NoAutoscalerError,
    asked,
    decisions,
    explain,
    find,
    what_if_facts,
)
from cluster.control.frontend_answers import FrontendAnswers
from cluster.control.health import HealthBook
from cluster.control.keeper import ExpertKeeper
from cluster.control.live_cluster import DemandBook, LiveCluster
from cluster.control.loop_end import end_process
from cluster.control.members import HEARTBEAT_S, Heartbeat, MemberBook
from cluster.control.metrics import ControlMetrics, ScalerMetrics
from cluster.control.node_requests import NodeRequests
from cluster.control.part_client import PartClients, PartFailedError
from cluster.control.ports import GatewayState, Loop, PartCalls
from cluster.control.roster_view import Described, RosterView
from cluster.control.scaler import Scaler
from cluster.control.standing import Standing, Wanted
from cluster.control.starting import StartReport
from cluster.control.straighten import Serving, Straightener, newest
from cluster.control.target import check_alone
from cluster.control.traffic import WINDOW_S, TrafficBook
from cluster.placement.availability import availability
from galerne.ids import GatewayId, ShardId
from router.api.cluster_port import (
    DecisionFacts,
    EventFacts,
    ExpertLoadFacts,
    ScalerFacts,
    TopologyFacts,
    TopologyWish,
    WhatIfFacts,
    WhatIfQuestion,
)
from router.exchange.links import LinkState
from router.gateway.roster import Roster

_DESCRIBE_TIMEOUT_S = 2.0
_RECOVER_S = 10.0


class Controller(AdapterAnswers, FrontendAnswers, RaySide):
    """State is rebuilt after a restart, from heartbeats and from what gateways serve."""

    def __init__(
        self,
        spec: LaunchSpec,
        calls: PartCalls | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``calls`` unset: over the network."""
        self._keep_log(spec.logs)
        self._spec = spec
        self._now_s = now_s
        self._progress: dict[str, tuple[str, int, int]] = {}
        self._actors: dict[str, Any] = {}  # handles of parts
        self._members = MemberBook(now_s)
        self._traffic = TrafficBook(
            now_s(), WINDOW_S if spec.scaling is None else spec.scaling.window_s
        )
        self._metrics = ControlMetrics()
        self._events = EventLog(self._metrics.happened)
        self._health = HealthBook()
        calls = calls or PartClients(spec.cluster_token, self._members.address_of, spec.tls)
        self._calls = calls
        self._conductor = TopologyConductor(spec.topology, calls, self._members, self._events)
        self._keeper = ExpertKeeper(
            lambda: self._conductor.current, self._health, calls, self._events, now_s=now_s
        )
        self._straightener = Straightener(self._conductor, calls, self._members, self._events)
        self._balancer = Balancer(
            lambda: self._conductor.current, calls, self._members, spec.expert_bytes, now_s=now_s
        )
        self._keep_adapters(self._conductor, self._members, calls, self._events, spec.model_name)
        self._demand = DemandBook(now_s)
        self._metrics.show_topology(self._conductor, self._members.is_live)
        self._metrics.show_experts(self._balancer, lambda: len(self._keeper.lost))
        self._metrics.show_loops(lambda: self._loops)
        view = (self._conductor, self._members, self._describe, self._metrics.text)
        self._view = RosterView(
            *view, lambda: self._loops, lambda: self._adapters.listed, now_s=now_s
        )
        self._keep_frontends(self._view, self._metrics.set, self._events, now_s)
        self._changes = Changes(
            spec.inputs, self._conductor, self._members, self._balancer, self._events
        )
        self._scaler = self._create_scaler(is_auto=spec.is_auto)
        if isinstance(calls, PartClients):
            self._begin_ray_side(self._conductor, self._members, self._keeper)
        self._recovered = asyncio.Event()
        self._known: Standing | None = None  # when the driver last asked
        self._tasks = [asyncio.ensure_future(self._run())]

    async def _run(self) -> None:
        if self._is_restarted():
            await self._recover()
        self._recovered.set()
        for loop in self._loops.values():
            task = asyncio.create_task(loop.run())
            task.add_done_callback(end_process)
            self._tasks.append(task)

    @property
    def _loops(self) -> dict[str, Loop]:
        """By name; each ends the process if it ends."""
        loops: dict[str, Loop] = {
            "keeper": self._keeper,
            "straightener": self._straightener,
            "balancer": self._balancer,
            "adapters": self._adapters,
            **self._ray_loops,
        }
        if self._scaler is not None:
            loops |= {"nodes": self._nodes, "scaler": self._scaler}
        return loops

    def _create_scaler(self, *, is_auto: bool) -> Scaler | None:
        plan = self._spec.scaling
        if plan is None:
            return None
        name = self._spec.groups_name
        use = plan.cluster.gpu_use
        groups = RayGroups(name, gateway_gpus=use.by_gateways, shard_gpus=use.by_shards)
        self._nodes = NodeRequests(name, groups, plan.kinds, self._events)
        cluster = LiveCluster(
            self._conductor,
            self._traffic,
            self._demand,
            shape=lambda: plan.shape_of(self._nodes.nodes),
            nodes_of=self._num_nodes,
            change=self._changes.carry_out,
            now_s=self._now_s,
        )
        return Scaler(
            *(plan, cluster, self._nodes, self._events, ScalerMetrics(self._metrics.set)),
            is_auto=is_auto,
            now_s=self._now_s,
        )

    def _num_nodes(self) -> tuple[int, int]:
        """Machines with a gateway, and with shards alone."""
        topology, members = self._conductor.current, self._members.members
        homes = {p: members[p].told.node for p in topology.parts if p in members}
        gateways = {node for part, node in homes.items() if part in topology.gateways}
        return max(len(gateways), 1), len(set(homes.values()) - gateways)

    def _is_restarted(self) -> bool:
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)

    async def _recover(self) -> None:
        """Learn which topology serves, and go on with a change to it that had begun to commit."""
        started = self._now_s()
        serving = Serving(self._conductor.current)
        while self._now_s() - started < _RECOVER_S:
            await asyncio.sleep(HEARTBEAT_S)
            states = await self._gateway_states()
            known = None if self._known is None else self._known.topology
            serving = newest(states, known, self._spec.topology)
            self._conductor.current = serving.current
            if self._known is not None and self._known.is_asleep:
                self._conductor.is_asleep = True
                break
            if states and self._view.is_settled:
                break
        if self._scaler is not None and self._known is not None:
            self._scaler.is_auto = self._known.is_auto
        self._changes.recovered(None if self._known is None else self._known.spread)
        self._adapters.restore(() if self._known is None else self._known.adapters)
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
        self._traffic.hear(told, self._now_s())
        self._actors[told.part] = actor
        self._changes.used_ids.add(told.part)
        self._keep_log_level(told.part, is_new=is_new)
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

    async def start_report(self, is_owner: bool = False) -> StartReport:
        """How far the parts have come."""
        if is_owner:
            self._owner_lives()
        return StartReport(self._progress, self._members.failures, sorted(self._members.members))

    async def wanted_parts(self, known: Standing | None = None) -> Wanted:
        """Parts that shall run, and the topology that each starts in.

        ``known`` by the driver: should all gateways be lost together with the controller, nobody
        else knows.
        """
        if known is not None:
            self._owner_lives()
        self._known = known or self._known
        self._metrics.driver_calls.inc(known is not None)
        await self._recovered.wait()
        parts, current = self._conductor.wanted, self._conductor.current
        serving = min((current, *parts.values()), key=lambda topology: topology.epoch)
        return Wanted(
            parts=parts,
            spread=self._changes.spread,
            log_level=self.server_log_level,
            standing=Standing(
                topology=serving,
                is_asleep=self._conductor.is_asleep,
                spread=self._changes.spread,
                is_auto=self._is_auto,
                adapters=self._adapters.loaded,
            ),
        )

    @property
    def _is_auto(self) -> bool:
        return self._scaler is not None and self._scaler.is_auto

    async def demand(self, frontend: str, num_held: int) -> None:
        """So many requests wait at a frontend for a gateway."""
        self._demand.hear(frontend, num_held)
        if self._scaler is not None and self._conductor.is_asleep:
            self._scaler.wake()

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
        nodes = self._changes.shards_by_node()
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
            is_auto=self._is_auto,
            stage=self._view.pause or conductor.stage.value,
            last_error=conductor.last_error,
            availability=availability(shown.placement, nodes).text if nodes else "",
        )

    async def expert_load(self) -> ExpertLoadFacts:
        """See ``ClusterPort``."""
        return await self._balancer.facts()

    async def explain(self, number: int | None = None) -> ScalerFacts:
        """See ``ClusterPort``."""
        # Beside the loop, as below: JSON of many candidates takes its time.
        return await asyncio.to_thread(explain, find(self._calibrated(), number))

    async def decisions(self, after: int = 0) -> list[DecisionFacts]:
        """See ``ClusterPort``."""
        return await asyncio.to_thread(decisions, self._calibrated().records, after)

    async def what_if(self, question: WhatIfQuestion) -> WhatIfFacts:
        """See ``ClusterPort``."""
        scaler = self._calibrated()
        wanted = asked(question, scaler.view())
        return await asyncio.to_thread(lambda: what_if_facts(scaler.plan_for(*wanted)))

    def _calibrated(self) -> Scaler:
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
        if wish.mode == AUTO:
            self._set_auto(wish)
            return await self.topology()
        await self._changes.begin(wish)
        if self._scaler is not None and not (wish.rebalance or wish.replace_shard):
            self._scaler.is_auto = False  # a person has chosen
        return await self.topology()

    def _set_auto(self, wish: TopologyWish) -> None:
        if self._scaler is None:
            raise NoAutoscalerError(NOT_CALIBRATED)
        with named_fields():
            check_alone(wish, "mode")
        self._scaler.is_auto = True

    async def roster(self, with_metrics: bool = False) -> Roster:
        """Gateways and shards that live; facts and metrics of every part if asked for."""
        return await self._view.roster(with_metrics=with_metrics)

    async def note_metrics(self, process: str, text: bytes) -> None:
        """Metrics of a process beside the parts, until it says something else."""
        self._view.beside[process] = text

    async def _describe(self, parts: Sequence[str]) -> Described:
        """Ask the actors of these parts; those that do not answer in time are left out."""
        described = {}

        async def ask(part: str) -> None:
            with contextlib.suppress(Exception):  # a dead part is simply not described
                answer = self._actors[part].describe.remote()
                described[part] = await asyncio.wait_for(answer, _DESCRIBE_TIMEOUT_S)

        await asyncio.gather(*(ask(part) for part in parts))
        return described
