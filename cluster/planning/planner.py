"""Chooses a topology for a load and says why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.planning.candidate import Candidate, Prediction
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates
from cluster.planning.limits import Broken, broken_limits
from cluster.planning.load import Load, Objectives
from cluster.planning.predict import predict
from cluster.planning.rank import criteria, rank_key, tie_key, value_of
from cluster.planning.sensitivity import Switch, next_switch
from cluster.planning.shape import ModelShape
from galerne.topology import Mode


@dataclass(frozen=True, slots=True)
class Verdict:
    """One candidate, what it would give, and why it is not the chosen one."""

    candidate: Candidate
    prediction: Prediction
    broken: tuple[Broken, ...]
    reason: str  # empty: it is the chosen one

    @property
    def is_allowed(self) -> bool:
        """Whether it breaks no limit."""
        return not self.broken


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision with everything it was made from."""

    chosen: Verdict | None  # None: every candidate breaks a limit
    verdicts: tuple[Verdict, ...]  # best first; those that break limits follow, fewest first
    sensitivity: Switch | None  # None where nothing is chosen


def plan(
    shape: ModelShape,
    calibration: Calibration,
    cluster: ClusterShape,
    objectives: Objectives,
    load: Load,
    *,
    mode: Mode | None = None,
) -> Plan:
    """The best candidate that breaks no limit.

    ``mode`` None is auto: the fewest machines, then most room below the objectives, then the
    shortest completion. Latency ranks by completion, throughput by requests/s at the limits.

    Raises:
        ValueError: The calibration lacks a link of the cluster's transports.
    """
    judged = sorted(
        (
            _judge(shape, calibration, candidate, cluster, objectives, load)
            for candidate in candidates(shape, cluster, objectives, mode)
        ),
        key=lambda v: (
            len(v.broken),
            rank_key(v.candidate, v.prediction, objectives, mode),
            tie_key(v.candidate),
        ),
    )
    if not judged or not judged[0].is_allowed:
        return Plan(None, tuple(judged), None)
    best = judged[0]
    verdicts = (best, *(_with_reason(v, best, objectives, mode) for v in judged[1:]))

    def order(candidate: Candidate, at: Load) -> tuple[object, ...]:
        verdict = _judge(shape, calibration, candidate, cluster, objectives, at)
        key = rank_key(candidate, verdict.prediction, objectives, mode)
        return len(verdict.broken), key, tie_key(candidate)

    rates = {v.candidate: v.prediction.max_requests_per_s for v in judged}
    return Plan(best, verdicts, next_switch(best.candidate, rates, load, order))


def _judge(
    shape: ModelShape,
    calibration: Calibration,
    candidate: Candidate,
    cluster: ClusterShape,
    objectives: Objectives,
    load: Load,
) -> Verdict:
    prediction = predict(shape, calibration, candidate, load)
    broken = broken_limits(candidate, prediction, cluster, objectives, load)
    return Verdict(candidate, prediction, broken, "; ".join(map(str, broken)))


def _with_reason(
    verdict: Verdict, best: Verdict, objectives: Objectives, mode: Mode | None
) -> Verdict:
    """An allowed candidate lost by the first criterion in which it differs."""
    if verdict.broken:
        return verdict
    for criterion in criteria(mode):
        own = value_of(criterion, verdict.candidate, verdict.prediction, objectives)
        other = value_of(criterion, best.candidate, best.prediction, objectives)
        if own != other:
            reason = f"{criterion}: {own:.4g}, the chosen one {other:.4g}"
            return Verdict(verdict.candidate, verdict.prediction, (), reason)
    return Verdict(verdict.candidate, verdict.prediction, (), "as good; the simpler one is chosen")
