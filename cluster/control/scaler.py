"""The autoscaler's loop: watches the load, decides, and changes the topology while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from cluster.control.conductor import ChangeRefusedError
from cluster.control.events import EventLog
from cluster.control.explain import NumberedRecord, ScalerView
from cluster.control.metrics import ScalerMetrics
from cluster.control.ports import NodeSource
from cluster.control.scaling_plan import ScalingPlan
from cluster.planning.autoscaler import Autoscaler, ScalerState
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.decision import Action, Decision, DecisionRecord, Measured
from cluster.planning.ledger import DecisionLedger, judgement
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.memory import Memory
from cluster.planning.observed import Observed
from cluster.planning.planner import Plan
from cluster.planning.refresh import ObservedSteps, refreshed
from galerne.errors import GalerneError
from galerne.topology import Mode

logger = logging.getLogger(__name__)

_NODES_POLL_S = 0.5
_REFRESH_S = 60.0
_REFRESH_WEIGHT = 0.1  # of a minute: what was measured before has half as much after seven


class ScaledCluster(Protocol):
    """What the loop watches and acts on. Belongs to the same event loop."""

    @property
    def current(self) -> Candidate | None:
        """What serves; None: it is scaled to zero."""
        ...

    @property
    def is_changing(self) -> bool:
        """Whether a change of topology goes on, whoever began it."""
        ...

    @property
    def away(self) -> tuple[str, ...]:
        """Parts of what serves that are not there; until they are back every change is refused."""
        ...

    @property
    def shape(self) -> ClusterShape:
        """Machines that there are, and those that may be asked for."""
        ...

    def observe(self, now_s: float) -> Observed:
        """The load lately."""
        ...

    def start_period(self) -> None:
        """From now on ``measured`` counts anew."""
        ...

    def measured(self) -> tuple[Measured, tuple[float | None, int]]:
        """The period; and of its answers without what the time before left, as ``judge`` asks."""
        ...

    def take_steps(self) -> ObservedSteps | None:
        """What steps of the current topology have cost lately, if there were enough of them."""
        ...

    async def change(self, target: Candidate) -> None:
        """Serve this; returns when it does.

        Raises:
            GalerneError: It was refused or undone.
        """
        ...

    def sleep(self) -> None:
        """Scale to zero.

        Raises:
            GalerneError: It was refused.
        """
        ...


class Scaler:
    """Decides all the time; acts only while ``is_auto``."""

    def __init__(
        self,
        plan: ScalingPlan,
        cluster: ScaledCluster,
        nodes: NodeSource,
        events: EventLog,
        metrics: ScalerMetrics,
        *,
        is_auto: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.is_auto = is_auto
        self.turns = 0  # of the loop, for those who watch it
        self.latest: Decision | None = None
        self.ledger = DecisionLedger()
        self.autoscaler = Autoscaler(plan.config, plan.planner)
        self._cluster = cluster
        self._nodes = nodes
        self._events = events
        self._metrics = metrics
        self._now_s = now_s
        self._memory = Memory()
        self._turned_s: float | None = None
        self._refreshed_s = now_s()
        self._change: asyncio.Task[None] | None = None
        self._awaits_nodes = False  # the change in flight, which has begun nothing yet
        self._problem = ""  # why nothing can be decided, as it was last told
        self._woken = asyncio.Event()
        metrics.show(
            plan.planner.objectives,
            is_auto=lambda: self.is_auto,
            num_nodes=lambda: nodes.num_nodes,
            num_pending=lambda: nodes.num_pending,
        )

    @property
    def records(self) -> Sequence[NumberedRecord]:
        """See ``Explainable``."""
        return self.ledger.records

    def view(self) -> ScalerView:
        """See ``Explainable``."""
        latest, mode = self.latest, None
        if not self.is_auto and self._cluster.current is not None:
            mode = self._cluster.current.mode
        held = None if latest is None else (0, time.time(), DecisionRecord(decision=latest))
        is_kept = self.records and self.records[-1][2].decision is latest
        return ScalerView(
            mode=mode,
            objectives=self.plan.planner.objectives,
            observed=None if latest is None else latest.observed,
            calibration_error=self.ledger.calibration_error,
            turned_s_ago=None if self._turned_s is None else self._now_s() - self._turned_s,
            latest=self.records[-1] if is_kept else held,
        )

    def plan_for(self, load: Load, objectives: Objectives, mode: Mode | None, nodes: int) -> Plan:
        """See ``Explainable``."""
        planner = replace(self.autoscaler.planner, objectives=objectives, mode=mode)
        return planner.plan(self._cluster.shape.with_more(nodes), Demand(load))

    def wake(self) -> None:
        """Decide now: somebody waits at zero."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.plan.tick_s):
                        await self._woken.wait()
                self._woken.clear()
                await self.turn()
                self.turns += 1
                self._turned_s = self._now_s()
        finally:
            if self._change is not None:
                self._change.cancel()

    async def turn(self) -> None:
        """One decision, and what it asks for."""
        if self._cluster.is_changing and self._memory.change is None:
            self.ledger.interrupted()
            self._cluster.start_period()
            return  # somebody else's: what it leads to is looked at afterwards
        now_s = self._now_s()
        state = ScalerState(
            current=self._cluster.current,
            observed=self._cluster.observe(now_s),
            cluster=self._cluster.shape,
            num_nodes=self._nodes.num_nodes,
            pending_nodes=self._num_pending,
            away=self._cluster.away,
            memory=self._memory,
            calibration_error=self.ledger.calibration_error,
        )
        decision = await self._decide(now_s, state)
        if decision is None:
            return
        self.latest = decision
        self._metrics.decided(decision)
        if self.is_auto and decision.action is not Action.HOLD and not self._is_stale(state):
            self._act(decision)
        else:
            self._memory = self._memory.seen(decision, self.autoscaler.config)

    async def _decide(self, now_s: float, state: ScalerState) -> Decision | None:
        """None: what serves is nothing that was calibrated, such as a person may have chosen."""
        try:
            self._refresh(now_s)
            # Beside the loop, which hears heartbeats: a large cluster has many candidates.
            decision = await asyncio.to_thread(self.autoscaler.decide, now_s, state)
        except (ValueError, ArithmeticError) as error:  # no reason to end the controller
            if str(error) != self._problem:
                self._problem = str(error)
                self._fail(f"nothing can be decided: {error}")
            return None
        self._problem = ""
        return decision

    @property
    def _num_pending(self) -> int:
        """Nodes that the change in flight waits for: one that has begun is not given up for any."""
        return self._nodes.num_pending if self._awaits_nodes else 0

    def _refresh(self, now_s: float) -> None:
        """Let costs follow what gateways measure: machines and their neighbours change."""
        if now_s - self._refreshed_s < _REFRESH_S:
            return
        self._refreshed_s = now_s
        steps = self._cluster.take_steps()
        if steps is None:
            return
        planner = self.autoscaler.planner
        calibration = refreshed(planner.shape, planner.calibration, steps, _REFRESH_WEIGHT)
        self.autoscaler = Autoscaler(self.plan.config, replace(planner, calibration=calibration))

    def _is_stale(self, state: ScalerState) -> bool:
        """Whether the world has changed while the decision was made."""
        return (
            state.memory is not self._memory
            or (state.pending_nodes > 0) != (self._num_pending > 0)
            or state.current != self._cluster.current
            or (self._cluster.is_changing and self._memory.change is None)
        )

    def _act(self, decision: Decision) -> None:
        self._memory = self._memory.after(decision, self.autoscaler.config)
        number = self.ledger.add(decision, time.time())
        action = decision.action.value
        self._events.add("autoscaler", "controller", f"{number} {action}: {decision.reason}")
        if decision.action is Action.GIVE_UP:
            if self._change is not None:
                self._change.cancel()
            self._nodes.give_up()
            return
        target = None if decision.action is Action.TO_ZERO else decision.target
        self._change = asyncio.create_task(self._carry_out(target))

    async def _carry_out(self, target: Candidate | None) -> None:
        before, is_refused, has_failed = self._cluster.current, False, False
        try:
            if target is not None:
                await self._until_nodes(target)
            await self._judge(before)
            if target is None:
                self._cluster.sleep()
            else:
                await self._cluster.change(target)
            self.ledger.committed()
        except GalerneError as error:
            self._fail(str(error))
            has_failed = not isinstance(error, ChangeRefusedError)
            is_refused = not has_failed and bool(self._cluster.away)
        except Exception as error:  # or no other change would ever begin
            logger.exception("change_failed")
            self._fail(repr(error))
            has_failed = True
        memory = self._memory
        if is_refused:  # no need to cool down from what could not begin
            self._memory = memory.change_refused()
        else:
            self._memory = memory.change_ended(self._now_s(), has_failed=has_failed)
        self._cluster.start_period()
        self._nodes.give_up()  # it is the parts that keep their nodes from now on

    def _fail(self, reason: str) -> None:
        self._metrics.failed()
        self._events.add("autoscaler_failed", "controller", reason)

    async def _until_nodes(self, target: Candidate) -> None:
        """Ends when they have come; a decision to give up cancels it."""
        before = self._cluster.current
        wanted = target.gateway_nodes, target.shard_nodes
        if before is not None:  # both are there during the change
            both = (
                max(target.gateway_nodes, before.gateway_nodes),
                max(target.shard_nodes, before.shard_nodes),
            )
            # More than can ever be there would be waited for in vain, again and again: then some
            # machines have parts of both.
            if sum(both) <= self._cluster.shape.num_nodes:
                wanted = both
        self._nodes.ask(*wanted)
        self._awaits_nodes = True
        try:
            while self._nodes.num_pending:  # noqa: ASYNC110 - no event of Ray's tells
                await asyncio.sleep(_NODES_POLL_S)
        finally:
            self._awaits_nodes = False

    async def _judge(self, served: Candidate | None) -> None:
        """Of the period that ends; before the change, which begins another one."""
        measured, settled = self._cluster.measured()
        number, decision = self.ledger.in_force or (None, None)
        found = await asyncio.to_thread(
            judgement, self.autoscaler, decision, served, measured, settled
        )
        record = self.ledger.note(number, found)
        if record is not None and record.outcome is not None:
            self._metrics.judged(record.outcome, self.ledger.calibration_error)
