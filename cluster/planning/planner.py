"""Chooses a topology for a load and says why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates, finer
from cluster.planning.limits import Broken, broken_limits
from cluster.planning.load import Load, Objectives
from cluster.planning.predict import predict
from cluster.planning.rank import criteria, rank_key, tie_key, value_of
from cluster.planning.sensitivity import Switch, next_switch
from cluster.planning.shape import ModelShape
from galerne.topology import Mode

_NUM_REFINED = 6


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

    def judge(candidate: Candidate, at: Load = load) -> Verdict:
        prediction = predict(shape, calibration, candidate, at)
        broken = broken_limits(candidate, prediction, cluster, objectives, at)
        return Verdict(candidate, prediction, broken, "; ".join(map(str, broken)))

    def key(verdict: Verdict) -> tuple[object, ...]:
        ranked = rank_key(verdict.candidate, verdict.prediction, objectives, mode)
        return len(verdict.broken), ranked, tie_key(verdict.candidate)

    judged = sorted(map(judge, candidates(shape, cluster, objectives, mode)), key=key)
    if not judged or not judged[0].is_allowed:
        return Plan(None, tuple(judged), None)
    by_candidate = {v.candidate: v for v in judged}
    for base in _worth_refining(judged):
        by_candidate |= {v.candidate: v for v in _refined(base, cluster, judge)}
    judged = sorted(by_candidate.values(), key=key)
    best = judged[0]
    verdicts = (best, *(_with_reason(v, best, objectives, mode) for v in judged[1:]))

    def order(candidate: Candidate, at: Load) -> tuple[object, ...]:
        return key(judge(candidate, at))

    rates = {v.candidate: v.prediction.max_requests_per_s for v in judged}
    return Plan(best, verdicts, next_switch(best.candidate, rates, load, order))


def _worth_refining(judged: Sequence[Verdict]) -> list[Candidate]:
    """The best, and of those that take as many machines the ones that would need fewest."""
    best = judged[0].candidate
    rivals = [v for v in judged if v.is_allowed and num_nodes(v.candidate) == num_nodes(best)]
    rivals.sort(key=lambda v: -v.prediction.max_requests_per_s)
    return list(dict.fromkeys([best, *(v.candidate for v in rivals[:_NUM_REFINED])]))


def _refined(
    base: Candidate, cluster: ClusterShape, judge: Callable[[Candidate], Verdict]
) -> Iterator[Verdict]:
    """A candidate with fewer gateways, down to the fewest that break no limit; and with one more.

    The list of candidates has gaps between numbers of gateways.
    """
    too_few, enough = 0, base.gateways
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        candidate = finer(base, cluster, middle)
        if candidate is None:
            too_few = middle
            continue
        verdict = judge(candidate)
        yield verdict
        if verdict.is_allowed:
            enough = middle
        else:
            too_few = middle
    more = finer(base, cluster, enough + 1)
    if more is not None:
        yield judge(more)


def _with_reason(
    verdict: Verdict, best: Verdict, objectives: Objectives, mode: Mode | None
) -> Verdict:
    """An allowed candidate lost by the first criterion in which it differs."""
    if verdict.broken:
        return verdict
    names = criteria(mode)
    keys = zip(
        names * 2,  # in grains, then exactly
        rank_key(verdict.candidate, verdict.prediction, objectives, mode),
        rank_key(best.candidate, best.prediction, objectives, mode),
        strict=True,
    )
    reason = "as good; the simpler one is chosen"
    criterion = next((name for name, own, other in keys if own != other), None)
    if criterion is not None:
        own = value_of(criterion, verdict.candidate, verdict.prediction, objectives)
        other = value_of(criterion, best.candidate, best.prediction, objectives)
        reason = f"{criterion}: {own:.6g}, the chosen one {other:.6g}"
    return replace(verdict, reason=reason)
