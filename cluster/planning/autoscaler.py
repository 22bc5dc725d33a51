"""When to change the topology, and to what. Pure: the same state gives the same decision.

    decision = autoscaler.decide(now_s, state)
    memory = state.memory.after(decision, autoscaler.config.remember_s)
    ...                                  # the shell does decision.action
    memory = memory.change_ended(now_s)  # when it was committed or failed

A change is made for the upper estimate of the load, so what is chosen still is best when the load
turns out higher: that is what keeps it from going back and forth. It is worth making if it saves
enough under the observed load and under the upper one. A broken objective needs no such gain and no
cool-down; a queue that breaks the TTFT objective is one, even where the mean load fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cluster.planning.assess import (
    Assessed,
    Constraint,
    Limits,
    Predict,
    assess,
    binding,
    gain,
    name_of,
    rank,
    under,
)
from cluster.planning.candidate import Candidate, num_nodes
from cluster.planning.decision import Action, Decision
from cluster.planning.load import Load
from cluster.planning.memory import ChangeInFlight, Memory
from cluster.planning.observed import Observed
from cluster.planning.scaler_config import ScalerConfig
from cluster.planning.switches import Sensitivity, sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """All that a decision depends on, besides the time."""

    current: Candidate | None  # None: scaled to zero
    observed: Observed
    num_nodes: int  # there now
    pending_nodes: int = 0  # that the change in flight waits for
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


class Autoscaler:
    """Chooses among ``candidates`` by ``predict``.

    Args:
        config: When a change is worth it.
        limits: Objectives, and how nodes weigh. ``available_nodes`` is set here as needed.
        candidates: At least one; what may never be chosen should not be among them.
        predict: The cost model.

    Raises:
        ValueError: There is no candidate.
    """

    def __init__(
        self,
        config: ScalerConfig,
        limits: Limits,
        candidates: Sequence[Candidate],
        predict: Predict,
    ) -> None:
        if not candidates:
            raise ValueError("no candidate")
        self.config = config
        self._limits = limits
        self._candidates = tuple(candidates)
        self.predict = predict

    def decide(self, now_s: float, state: ScalerState) -> Decision:
        """What to do now. ``HOLD`` has a reason and a binding constraint, too."""
        limits = self._limits_at(now_s, state)
        trouble = self._trouble(state, limits)
        load, stress = state.observed.upper, self._stress(state.observed)
        ranked = rank(self._candidates, self.predict, load, limits, stress)
        verdict = self._verdict(now_s, state, limits, trouble, ranked)
        is_made = verdict.action is not Action.HOLD
        return Decision(
            at_s=now_s,
            action=verdict.action,
            current=state.current,
            target=verdict.target,
            observed=state.observed,
            decided_for=load,
            must_carry_requests_per_s=stress.requests_per_s,
            ranked=ranked,
            binding=verdict.binding,
            reason=verdict.reason,
            is_urgent=verdict.is_urgent,
            are_objectives_held=trouble is None,
            sensitivity=self.sensitivity(load, limits, stress) if is_made else None,
            calibration_error=state.calibration_error,
        )

    def cost(self, candidate: Candidate, load: Load) -> float:
        """Of a candidate under a load, as ranked; infinite where it breaks an objective."""
        judged = self._assess(candidate, load, self._limits)
        return judged.cost if judged.excess <= 1 else float("inf")

    def sensitivity(
        self, load: Load, limits: Limits | None = None, stress: Load | None = None
    ) -> Sensitivity:
        """Where the best candidate changes; some dozens of rankings, so not made for a hold."""
        bounds = self._limits if limits is None else limits
        # Without a queue the stress is the load, and both go up and down together.
        is_queue = stress is not None and stress.requests_per_s > load.requests_per_s
        least = stress.requests_per_s if stress is not None and is_queue else 0.0

        def best_at(at: Load) -> Candidate:
            hard = replace(at, requests_per_s=max(at.requests_per_s, least))
            return rank(self._candidates, self.predict, at, bounds, hard)[0].candidate

        return sensitivity(best_at, load)

    def _limits_at(self, now_s: float, state: ScalerState) -> Limits:
        if now_s >= state.memory.no_nodes_until_s:
            return self._limits
        return replace(self._limits, available_nodes=max(state.num_nodes, num_nodes(state.current)))

    def _stress(self, seen: Observed) -> Load:
        """What must be carried: the upper estimate, and what empties the queue in time."""
        drain = seen.recent_requests_per_s + seen.waiting / self.config.drain_s
        return replace(seen.upper, requests_per_s=max(seen.upper.requests_per_s, drain))

    def _trouble(self, state: ScalerState, limits: Limits) -> _Trouble | None:
        """Whether the current candidate breaks an objective under the load and the queue seen."""
        seen = state.observed
        if state.current is None:
            if not self._is_wanted(seen):
                return None
            return _Trouble(Constraint.CAPACITY, "requests came and nothing runs")
        now = self._assess(state.current, seen.load, limits)
        if now.excess > 1 and seen.is_settled:  # else a queue has to show it
            return _Trouble(now.constraint, now.refusal)
        return self._queue_trouble(now, seen)

    def _queue_trouble(self, now: Assessed, seen: Observed) -> _Trouble | None:
        """Whether who comes now would wait too long behind those who wait already.

        Little's law: a queue of W requests that leaves at a rate r takes W / r.
        """
        limit = self._limits.objectives.ttft_p95_s
        rate = now.prediction.max_requests_per_s
        if limit is None or not seen.waiting:
            return None
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

    def _verdict(
        self,
        now_s: float,
        state: ScalerState,
        limits: Limits,
        trouble: _Trouble | None,
        ranked: Sequence[Assessed],
    ) -> _Verdict:
        if state.memory.change is not None:
            return self._wait(now_s, state, state.memory.change)
        if state.current is None and trouble is None:
            return _Verdict(Action.HOLD, None, Constraint.IDLE, "nobody asks anything")
        if trouble is not None:
            return self._relieve(now_s, state, limits, trouble, ranked)
        if self._is_idle(state.observed):
            why = f"idle for {state.observed.idle_s:.0f} s"
            return self._when_cool(
                now_s, state, _Verdict(Action.TO_ZERO, None, Constraint.IDLE, why)
            )
        if not state.observed.is_settled:
            why = "the load has not been watched for long enough"
            return _Verdict(Action.HOLD, state.current, Constraint.HYSTERESIS, why)
        return self._save(now_s, state, limits, ranked)

    def _wait(self, now_s: float, state: ScalerState, change: ChangeInFlight) -> _Verdict:
        """One change at a time; one whose nodes do not come is given up."""
        waited_s = now_s - change.started_s
        if state.pending_nodes and waited_s >= self.config.pending_timeout_s:
            why = (
                f"{state.pending_nodes} nodes for {name_of(change.target)} did not come in "
                f"{waited_s:.0f} s; asked for again in {self.config.remember_s:.0f} s"
            )
            return _Verdict(Action.GIVE_UP, state.current, Constraint.PENDING, why)
        bound = Constraint.PENDING if state.pending_nodes else Constraint.ONE_CHANGE
        nodes = f", {state.pending_nodes} nodes pending" if state.pending_nodes else ""
        why = f"the change to {name_of(change.target)} runs since {waited_s:.0f} s{nodes}"
        return _Verdict(Action.HOLD, state.current, bound, why)

    def _relieve(
        self,
        now_s: float,
        state: ScalerState,
        limits: Limits,
        trouble: _Trouble,
        ranked: Sequence[Assessed],
    ) -> _Verdict:
        """Leave a broken objective at once, if there is anything better."""
        best = ranked[0]
        if not best.is_allowed:
            why = f"{trouble.reason}; {best.refusal}"
            return _Verdict(Action.HOLD, state.current, best.constraint, why)
        if state.current is not None:
            since_s = now_s - state.memory.last_change_s
            if since_s < self.config.settle_s:
                why = f"{trouble.reason}; the last change, {since_s:.0f} s ago, has yet to show"
                return _Verdict(Action.HOLD, state.current, Constraint.COOL_DOWN, why)
            if not self._is_worth(gain(self._at_worst(state, limits), best)):
                why = f"{trouble.reason}; no other candidate is better for that"
                return _Verdict(Action.HOLD, state.current, trouble.constraint, why)
        why = f"{trouble.reason}; best for that is {name_of(best.candidate)}"
        return _Verdict(Action.CHANGE, best.candidate, trouble.constraint, why, is_urgent=True)

    def _save(
        self, now_s: float, state: ScalerState, limits: Limits, ranked: Sequence[Assessed]
    ) -> _Verdict:
        """Change to what is cheaper now and would still be best afterwards."""
        assert state.current is not None, "zero is left by its own rule"
        seen, best = state.observed, ranked[0]
        if best.candidate == state.current or not best.is_allowed:
            why = f"{name_of(state.current)} is the best one"
            return _Verdict(Action.HOLD, state.current, binding(ranked, best), why)
        now = self._assess(state.current, seen.load, limits)
        then = self._assess(best.candidate, seen.load, limits)
        saved = min(gain(now, then), gain(self._at_worst(state, limits), best))
        rates = f"{seen.load.requests_per_s:.3g} to {seen.upper.requests_per_s:.3g} req/s"
        what = f"{name_of(best.candidate)} saves {max(saved, 0):.0%} of the cost at {rates}"
        if not self._is_worth(saved):
            why = f"{what}, below {self.config.min_gain:.0%}"
            return _Verdict(Action.HOLD, state.current, Constraint.HYSTERESIS, why)
        after = self._queue_trouble(then, seen)
        if after is not None:
            why = f"{what}, but afterwards {after.reason}"
            return _Verdict(Action.HOLD, state.current, after.constraint, why)
        bound = binding(ranked, best)
        return self._when_cool(now_s, state, _Verdict(Action.CHANGE, best.candidate, bound, what))

    def _when_cool(self, now_s: float, state: ScalerState, verdict: _Verdict) -> _Verdict:
        """The verdict, unless the last change is too recent."""
        since_s = now_s - state.memory.last_change_s
        if since_s >= self.config.cool_down_s:
            return verdict
        why = f"{verdict.reason}; the last change was {since_s:.0f} s ago"
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

    def _at_worst(self, state: ScalerState, limits: Limits) -> Assessed:
        """The current candidate, as the others were ranked."""
        assert state.current is not None, "zero is left by its own rule"
        seen = state.observed
        return under(state.current, self.predict, seen.upper, limits, self._stress(seen))

    def _assess(self, candidate: Candidate, load: Load, limits: Limits) -> Assessed:
        return assess(candidate, self.predict(candidate, load), load, limits)
