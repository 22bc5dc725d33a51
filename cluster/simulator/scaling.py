"""The autoscaler's thin shell on the virtual clock: watches, decides, carries changes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cluster.planning.autoscaler import Autoscaler, ScalerState
from cluster.planning.candidate import Candidate, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.decision import Action, DecisionRecord
from cluster.planning.ledger import DecisionLedger, judgement
from cluster.planning.memory import Memory
from cluster.planning.observed import ObservedWindow
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.result import Commit
from cluster.simulator.watch import Period

ChangeSeconds = Callable[[Candidate | None, Candidate | None], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """An autoscaler and the world it acts on."""

    autoscaler: Autoscaler
    cluster: ClusterShape  # with the nodes that may be asked for
    supply: NodeSupply
    change_s: ChangeSeconds  # from the last node's coming to the commit
    tick_s: float = 5.0  # between decisions
    window_s: float = 60.0  # of observation


class ScalerShell:
    """Keeps the autoscaler's memory and the change in flight; times are the virtual clock's.

    Attributes:
        num_nodes: There now.
        commit_s: When the change in flight commits; infinite without one, or while nodes pend.
    """

    def __init__(self, scaling: Scaling, current: Candidate | None) -> None:
        self.num_nodes = max(scaling.supply.at_start, num_nodes(current))
        self.commit_s = math.inf
        self._scaling = scaling
        self._memory = Memory()
        self._nodes_ready_s = -math.inf
        self._target: Candidate | None = None
        self._ledger = DecisionLedger()

    @property
    def records(self) -> list[DecisionRecord]:
        """All decisions but holds."""
        return [record for _, _, record in self._ledger.records]

    @property
    def calibration_error(self) -> float | None:
        """See ``DecisionLedger``."""
        return self._ledger.calibration_error

    def tick(self, now_s: float, current: Candidate | None, window: ObservedWindow) -> None:
        """Decide, and start or cancel a change."""
        if self._memory.change is not None and now_s >= self._nodes_ready_s:
            self.num_nodes = max(self.num_nodes, num_nodes(self._target))
        wanted = num_nodes(self._target) if self._memory.change is not None else 0
        state = ScalerState(
            current=current,
            observed=window.observe(now_s),
            cluster=self._scaling.cluster,
            num_nodes=self.num_nodes,
            pending_nodes=max(0, wanted - self.num_nodes),
            memory=self._memory,
            calibration_error=self.calibration_error,
        )
        autoscaler = self._scaling.autoscaler
        decision = autoscaler.decide(now_s, state)
        self._memory = self._memory.after(decision, autoscaler.config)
        if decision.action is Action.HOLD:
            return
        self._ledger.add(decision, now_s)
        if decision.action is Action.GIVE_UP:
            self.commit_s = math.inf
            return
        self._start(now_s, current, None if decision.action is Action.TO_ZERO else decision.target)

    def commit(self, now_s: float) -> Commit:
        """The change in flight takes effect."""
        self._memory = self._memory.change_ended(now_s)
        self.commit_s = math.inf
        self._ledger.committed()
        self.num_nodes = max(self._scaling.supply.at_start, num_nodes(self._target))
        reason = self.records[-1].decision.reason
        return Commit(at_s=now_s, candidate=self._target, reason=reason)

    def judge(self, current: Candidate | None, period: Period, now_s: float) -> None:
        """Compare a period between two commits with its prediction; see ``judgement``."""
        settled = period.settled.mean, period.settled.count
        measured = period.measured(now_s)
        number, decision = self._ledger.in_force or (None, None)
        found = judgement(self._scaling.autoscaler, decision, current, measured, settled)
        self._ledger.note(number, found)

    def _start(self, now_s: float, current: Candidate | None, target: Candidate | None) -> None:
        supply = self._scaling.supply
        self._target = target
        self._nodes_ready_s = supply.ready_s(now_s, self.num_nodes, num_nodes(target))
        self.commit_s = self._nodes_ready_s + self._scaling.change_s(current, target)
