"""When to change the topology, and to what. Pure: the same state gives the same decision.

    decision = autoscaler.decide(now_s, state)
    memory = state.memory.after(decision, autoscaler.config)
    ...                                  # the shell does decision.action
    memory = memory.change_ended(now_s)  # when it was committed or failed

A change is made for the upper estimate of the load, so what is chosen still is best when the load
turns out higher: that is what keeps it from going back and forth. It is worth making if it saves
enough under the observed load and under the upper one. After a burst, what carries most of it is
kept for a while, as Kubernetes' HPA does (its stabilisation window), unless machines are saved that
weigh something: bursts come again, and a queue that grows until a change back has been made costs
more than quiet minutes do. A broken objective needs no such gain and no cool-down; a queue that
breaks the TTFT objective is one, even where the mean load fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cluster.planning.candidate import Candidate, Prediction, describe, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.decision import Action, Decision, worth_keeping
from cluster.planning.judge import Judged, binding, cost_of, gain
from cluster.planning.limits import Constraint, excess_of
from cluster.planning.load import Demand, Load, Queue
from cluster.planning.memory import ChangeInFlight, Memory
from cluster.planning.observed import Observed
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig

_HEADROOM = 0.8  # of its capacity is what a smaller candidate may be given at the upper estimate
_HELD = 0.75  # of the busiest load is what a smaller candidate must carry for a while
_HORIZON = 2.0  # cool-downs: for so long a queue of a load that is too much is taken to grow
_CARRIED_PART = 0.9  # of what the fullest candidate carries: queues are still short there


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """All that a decision depends on, besides the time."""

    current: Candidate | None  # None: scaled to zero
    observed: Observed
    cluster: ClusterShape  # with the nodes that may be asked for
    num_nodes: int  # there now
    pending_nodes: int = 0  # that the change in flight waits for
    away: tuple[str, ...] = ()  # parts of what serves that are not there
    memory: Memory = field(default_factory=Memory)
    calibration_error: float | None = None  # median relative error of earlier predictions


class _Verdict(NamedTuple):
    """A decision without what all decisions share."""

    action: Action
    target: Candidate | None
    binding: Constraint
    reason: str
    is_urgent: bool = False


class _Trouble(NamedTuple):
    """An objective that the current candidate breaks, or is about to."""

    constraint: Constraint
    reason: str


class _Current(NamedTuple):
    """The current candidate."""

    candidate: Candidate
    now: Judged  # under the observed load
    at_worst: Judged  # as the others are ranked: under the upper load and the queue


class Autoscaler:
    """Chooses as ``planner`` ranks; ``config`` says when a change is worth it."""

    def __init__(self, config: ScalerConfig, planner: Planner) -> None:
        self.config = config
        self.planner = planner

    def decide(self, now_s: float, state: ScalerState) -> Decision:
        """What to do now. ``HOLD`` has a reason and a binding constraint, too.

        Every candidate is predicted once for the load that is decided for, and once more for a
        queue if there is one; besides, the current one and the target for the observed load.

        Raises:
            ValueError: There is no candidate, or the calibration lacks a link of the cluster's.
        """
        cluster = self._cluster_at(now_s, state)
        demand = self._demand(state.observed)
        also = () if state.current is None else (state.current,)
        ranked = self.planner.rank(cluster, demand, also)
        if (less := self._within(ranked, state.observed, demand)) is not None:
            demand, ranked = less, self.planner.rank(cluster, less, also)
        current = self._current(state, cluster, demand, ranked)
        trouble = self._trouble(state.observed, current)
        verdict = _when_whole(
            state, self._verdict(now_s, state, cluster, current, trouble, ranked, demand)
        )
        is_made = verdict.action is not Action.HOLD
        return Decision(
            at_s=now_s,
            action=verdict.action,
            current=state.current,
            target=verdict.target,
            observed=state.observed,
            decided_for=demand.load,
            must_carry_requests_per_s=max(demand.load.requests_per_s, self._drain_rate(demand)),
            ranked=worth_keeping(ranked, (state.current, verdict.target)),
            num_candidates=len(ranked),
            binding=verdict.binding,
            reason=verdict.reason,
            is_urgent=verdict.is_urgent,
            are_objectives_held=trouble is None,
            # Some hundreds of predictions, so not made for a hold.
            sensitivity=self.planner.sensitivity(ranked, cluster, demand) if is_made else None,
            calibration_error=state.calibration_error,
        )

    def predict(self, candidate: Candidate, load: Load) -> Prediction:
        """What the cost model expects."""
        return self.planner.predict(candidate, load)

    def cost(self, candidate: Candidate, load: Load, least: float = 0.0) -> float:
        """Of a candidate under a load, as ranked; infinite where it breaks a promise.

        So it is where no saving leads to it from what carries ``least`` requests/s.
        """
        given, objectives = self.predict(candidate, load), self.planner.objectives
        if excess_of(given, objectives) > 1 or not _has_headroom(given, least):
            return float("inf")
        return cost_of(candidate, given, objectives, self.planner.mode)

    def _cluster_at(self, now_s: float, state: ScalerState) -> ClusterShape:
        if now_s >= state.memory.no_nodes_until_s:
            return state.cluster
        present = max(state.num_nodes, num_nodes(state.current))
        return replace(state.cluster, available_nodes=present)

    def _demand(self, seen: Observed) -> Demand:
        """The upper estimate, and the queue; what fills it has a rise at once, and a fall."""
        is_rising = seen.latest_requests_per_s > seen.load.requests_per_s
        coming = seen.latest_requests_per_s if is_rising else seen.recent_requests_per_s
        queue = Queue(
            waiting=seen.waiting,
            requests_per_s=coming,
            drain_s=self.config.drain_s,
            horizon_s=_HORIZON * self.config.cool_down_s,
        )
        return Demand(seen.upper, queue).at(seen.upper.requests_per_s)

    def _drain_rate(self, demand: Demand) -> float:
        """Requests/s that empty the queue in time."""
        queue = demand.queue
        if queue is None or not queue.waiting:
            return 0.0
        return queue.requests_per_s + queue.waiting / queue.drain_s

    def _within(self, ranked: Sequence[Judged], seen: Observed, demand: Demand) -> Demand | None:
        """Of an upper estimate that nobody carries, the part that can be; None: it is carried.

        It is an estimate. Taken as it is, whoever carries most would be chosen, however slow, also
        where others carry all that really comes.
        """
        possible = [j.prediction for j in ranked if j.is_possible]
        is_priced = not self.planner.objectives.has_times
        if is_priced or not possible or any(p.is_carried for p in possible):
            return None
        rate = _CARRIED_PART * max(p.max_requests_per_s for p in possible)
        return demand.at(rate) if rate > seen.load.requests_per_s else None

    def _current(
        self,
        state: ScalerState,
        cluster: ClusterShape,
        demand: Demand,
        ranked: Sequence[Judged],
    ) -> _Current | None:
        if state.current is None:
            return None
        at_worst = next(j for j in ranked if j.candidate == state.current)
        usual = Demand(state.observed.load)
        now = self._again(at_worst, cluster, demand, usual)
        return _Current(state.current, now, at_worst)

    def _again(self, judged: Judged, cluster: ClusterShape, old: Demand, new: Demand) -> Judged:
        """Under another demand; predicted again only if the load is another one."""
        given = judged.prediction if old.load == new.load else None
        return self.planner.judge(judged.candidate, cluster, new, given)

    def _trouble(self, seen: Observed, current: _Current | None) -> _Trouble | None:
        """Whether the current candidate breaks an objective under the load and the queue seen."""
        if current is None:
            if not self._is_wanted(seen):
                return None
            return _Trouble(Constraint.CAPACITY, "requests came and nothing runs")
        now = current.now
        if now.excess > 1 and seen.is_settled:  # else a queue has to show it
            broken = next(b for b in now.broken if b.is_by_load)
            return _Trouble(broken.field, str(broken))
        return self._queue_trouble(now, seen)

    def _queue_trouble(self, now: Judged, seen: Observed) -> _Trouble | None:
        """Whether who comes now would wait too long behind those who wait already.

        Little's law: a queue of W requests that leaves at a rate r takes W / r.
        """
        limit = self.planner.objectives.ttft_p95_s
        rate = now.prediction.max_requests_per_s
        if not seen.waiting:
            return None
        if seen.load.requests_per_s <= rate < seen.latest_requests_per_s:  # the mean is late
            return _Trouble(
                Constraint.CAPACITY,
                f"{seen.waiting} requests wait, and {seen.latest_requests_per_s:.3g} req/s come, "
                f"more than the {rate:.3g} that it carries",
            )
        if limit is None:
            return self._growing_queue(rate, seen)
        wait_s = seen.waiting / rate if rate > 0 else float("inf")
        # Of a load that was watched for a moment only the queue itself is certain.
        usual_s = now.prediction.ttft_p50_s if seen.is_settled else 0.0
        if usual_s + wait_s <= limit:
            return None
        return _Trouble(
            Constraint.TTFT,
            f"{seen.waiting} requests wait, {wait_s:.3g} s at {rate:.3g} req/s, "
            f"besides {usual_s:.3g} s, which breaks the TTFT of {limit:.3g} s",
        )

    def _growing_queue(self, rate: float, seen: Observed) -> _Trouble | None:
        """Nothing is promised: a queue is trouble if it is not gone before a saving may act."""
        spare, limit = rate - seen.load.requests_per_s, self.config.cool_down_s
        if spare > 0 and seen.waiting / spare <= limit:
            return None
        return _Trouble(
            Constraint.DRAIN,
            f"{seen.waiting} requests wait, not gone within {limit:.3g} s at {rate:.3g} req/s",
        )

    def _verdict(
        self,
        now_s: float,
        state: ScalerState,
        cluster: ClusterShape,
        current: _Current | None,
        trouble: _Trouble | None,
        ranked: Sequence[Judged],
        demand: Demand,
    ) -> _Verdict:
        if state.memory.change is not None:
            return self._wait(now_s, state, state.memory.change)
        if trouble is not None:
            return self._relieve(now_s, state, current, trouble, ranked)
        if current is None:
            return _Verdict(Action.HOLD, None, Constraint.IDLE, "nobody asks anything")
        if self._is_idle(state.observed):
            why = f"idle for {state.observed.idle_s:.0f} s"
            return self._when_cool(
                now_s, state, _Verdict(Action.TO_ZERO, None, Constraint.IDLE, why)
            )
        if not state.observed.is_settled:
            why = "the load has not been watched for long enough"
            return _Verdict(Action.HOLD, state.current, Constraint.HYSTERESIS, why)
        return self._save(now_s, state, cluster, current, ranked, demand)

    def _wait(self, now_s: float, state: ScalerState, change: ChangeInFlight) -> _Verdict:
        """One change at a time; one whose nodes do not come is given up."""
        waited_s = now_s - change.started_s
        if state.pending_nodes and waited_s >= self.config.pending_timeout_s:
            why = (
                f"{state.pending_nodes} nodes for {describe(change.target)} did not come in "
                f"{waited_s:.0f} s; asked for again in {self.config.remember_s:.0f} s"
            )
            return _Verdict(Action.GIVE_UP, state.current, Constraint.PENDING, why)
        bound = Constraint.PENDING if state.pending_nodes else Constraint.ONE_CHANGE
        nodes = f", {state.pending_nodes} nodes pending" if state.pending_nodes else ""
        why = f"the change to {describe(change.target)} runs since {waited_s:.0f} s{nodes}"
        return _Verdict(Action.HOLD, state.current, bound, why)

    def _relieve(
        self,
        now_s: float,
        state: ScalerState,
        current: _Current | None,
        trouble: _Trouble,
        ranked: Sequence[Judged],
    ) -> _Verdict:
        """Leave a broken objective at once, if there is anything better."""
        best = ranked[0]
        if not best.is_possible:
            why = f"{trouble.reason}; {best.reason}"
            return _Verdict(Action.HOLD, state.current, best.constraint, why)
        if current is not None:
            since_s = now_s - state.memory.last_change_s
            if since_s < state.memory.pause_s(self.config.settle_s, self.config):
                shows = "" if state.memory.num_failed else ", and has yet to show"
                why = f"{trouble.reason}; {state.memory.last_text(since_s)}{shows}"
                return _Verdict(Action.HOLD, state.current, Constraint.COOL_DOWN, why)
            if not self._is_worth(gain(current.at_worst, best)):
                why = f"{trouble.reason}; no other candidate is better for that"
                return _Verdict(Action.HOLD, state.current, trouble.constraint, why)
        why = f"{trouble.reason}; best for that is {describe(best.candidate)}"
        return _Verdict(Action.CHANGE, best.candidate, trouble.constraint, why, is_urgent=True)

    def _save(
        self,
        now_s: float,
        state: ScalerState,
        cluster: ClusterShape,
        current: _Current,
        ranked: Sequence[Judged],
        demand: Demand,
    ) -> _Verdict:
        """Change to what is cheaper now and would still be best afterwards."""
        seen, busiest = state.observed, state.memory.busiest
        best = self._with_headroom(current.at_worst, ranked, _HELD * busiest.requests_per_s)
        if best is current.at_worst or not best.is_possible:
            why = f"{describe(state.current)} is the best one"
            if self._with_headroom(current.at_worst, ranked, 0.0) is not best:
                burst = f"{busiest.requests_per_s:.3g} req/s of {now_s - busiest.at_s:.0f} s ago"
                why += f" that carries most of the {burst}"
            return _Verdict(Action.HOLD, state.current, binding(ranked, best), why)
        usual = Demand(seen.load, demand.queue).at(seen.load.requests_per_s)
        then = self._again(best, cluster, demand, usual)
        now = self.planner.judge(current.candidate, cluster, usual, current.now.prediction)
        saved = min(gain(now, then), gain(current.at_worst, best))
        rates = f"{seen.load.requests_per_s:.3g} to {seen.upper.requests_per_s:.3g} req/s"
        what = f"{describe(best.candidate)} saves {max(saved, 0):.0%} of the cost at {rates}"
        if not self._is_worth(saved):
            why = f"{what}, below {self.config.min_gain:.0%}"
            return _Verdict(Action.HOLD, state.current, Constraint.HYSTERESIS, why)
        after = self._queue_trouble(then, seen)
        if after is not None:
            why = f"{what}, but afterwards {after.reason}"
            return _Verdict(Action.HOLD, state.current, after.constraint, why)
        bound = binding(ranked, best)
        return self._when_cool(now_s, state, _Verdict(Action.CHANGE, best.candidate, bound, what))

    def _with_headroom(self, current: Judged, ranked: Sequence[Judged], held: float) -> Judged:
        """The best one that does not carry less than the current, or has headroom all the same.

        Else noise would break a promise soon, and lead back. ``held``: requests/s that none may
        carry less than, unless the current one does, or it saves machines that weigh something.
        """
        if not current.is_possible:
            return ranked[0]
        least, nodes = current.prediction.max_requests_per_s, num_nodes(current.candidate)
        held, do_weigh = min(held, least), self.planner.objectives.weight > 0

        def is_ready(judged: Judged) -> bool:
            is_exempt = do_weigh and num_nodes(judged.candidate) < nodes
            return is_exempt or judged.prediction.max_requests_per_s >= held

        return next(j for j in ranked if _has_headroom(j.prediction, least) and is_ready(j))

    def _when_cool(self, now_s: float, state: ScalerState, verdict: _Verdict) -> _Verdict:
        """The verdict, unless the last change is too recent."""
        since_s = now_s - state.memory.last_change_s
        if since_s >= state.memory.pause_s(self.config.cool_down_s, self.config):
            return verdict
        why = f"{verdict.reason}; {state.memory.last_text(since_s)}"
        return _Verdict(Action.HOLD, state.current, Constraint.COOL_DOWN, why)

    def _is_worth(self, saved: float) -> bool:
        return saved > 0 and saved >= self.config.min_gain

    def _is_wanted(self, seen: Observed) -> bool:
        """Whether zero must be left. A window may still hold what came before zero."""
        limit = self.config.idle_to_zero_s
        is_recent = limit is None or seen.idle_s < limit
        return seen.waiting > 0 or (seen.load.requests_per_s > 0 and is_recent)

    def _is_idle(self, seen: Observed) -> bool:
        limit = self.config.idle_to_zero_s
        is_empty = not (seen.waiting or seen.running)
        return limit is not None and is_empty and seen.idle_s >= limit


def _when_whole(state: ScalerState, verdict: _Verdict) -> _Verdict:
    """The verdict, but no change begins while a part of what serves is away."""
    if verdict.action is not Action.CHANGE or not state.away:
        return verdict
    why = f"{verdict.reason}; {', '.join(state.away)} must come back first"
    return _Verdict(Action.HOLD, state.current, Constraint.AWAY, why)


def _has_headroom(given: Prediction, least: float) -> bool:
    """Of what carries less than ``least`` requests/s: whether it would not be full."""
    return given.max_requests_per_s >= least or given.utilisation <= _HEADROOM
