"""Chooses a topology for a load and says why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates, finer, gateway_counts
from cluster.planning.judge import Judged, best_of, judge, ranked
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.predict import predict
from cluster.planning.sensitivity import Sensitivity, sensitivity
from cluster.planning.shape import ModelShape
from galerne.topology import Mode

_NUM_REFINED = 4  # candidates whose number of gateways is refined, of the best and of the leanest
_GAP = 4  # factor between two numbers of gateways in the list, at most
_NUM_RIVALS = 6  # candidates of each kind that a search for a switch compares


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Judges candidates of one model by what was measured; the choice of the mode, None being auto.

    ``only``: the candidates to choose from. Unset: all that a cluster allows.
    """

    shape: ModelShape
    calibration: Calibration
    objectives: Objectives = field(default_factory=Objectives)
    mode: Mode | None = None
    only: Sequence[Candidate] | None = None

    def __post_init__(self) -> None:
        if self.only is not None and not self.only:
            raise ValueError("no candidate")

    def predict(self, candidate: Candidate, load: Load) -> Prediction:
        """What the candidate gives under a load.

        Raises:
            ValueError: The calibration lacks a link that the candidate needs.
        """
        return predict(self.shape, self.calibration, candidate, load)

    def judge(
        self,
        candidate: Candidate,
        cluster: ClusterShape,
        demand: Demand,
        given: Prediction | None = None,
    ) -> Judged:
        """Cost, and what is broken; ``given``: the prediction for the demand's load, if known."""
        given = given or self.predict(candidate, demand.load)
        return judge(candidate, given, demand, cluster, self.objectives, self.mode)

    def rank(
        self, cluster: ClusterShape, demand: Demand, also: Iterable[Candidate] = ()
    ) -> tuple[Judged, ...]:
        """All candidates, the best first: those that break nothing, then by how much they break.

        ``also``: candidates that are compared though they may not be listed.

        Raises:
            ValueError: There is no candidate, or the calibration lacks a link of the cluster's.
        """
        found: dict[Candidate, Judged] = {}

        def judged(candidate: Candidate) -> Judged:
            if candidate not in found:
                found[candidate] = self.judge(candidate, cluster, demand)
            return found[candidate]

        listed = self.only
        if listed is None:
            listed = candidates(self.shape, cluster, self.objectives, self.mode)
        for candidate in (*listed, *also):
            judged(candidate)
        if self.only is None:
            for base in _worth_refining(sorted(found.values(), key=lambda j: j.exact_key)):
                _refine(base, cluster, judged)
        return ranked(list(found.values()))

    def plan(self, cluster: ClusterShape, demand: Demand) -> Plan:
        """The best candidate that breaks no limit, and all that it was chosen from.

        Raises:
            ValueError: As ``rank``.
        """
        verdicts = self.rank(cluster, demand)
        chosen = verdicts[0] if verdicts[0].is_allowed else None
        return Plan(chosen, verdicts, self.sensitivity(verdicts, cluster, demand))

    def sensitivity(
        self, everyone: Sequence[Judged], cluster: ClusterShape, demand: Demand
    ) -> Sensitivity | None:
        """Where the best of ``everyone``, as ranked under ``demand``, is no longer chosen.

        None: it breaks a limit already. Compared are few, so that the search stays small in a large
        cluster: the best of now, those that carry next more and next less, those that carry most,
        and the cheapest at rest.
        """
        chosen = everyone[0]
        if not chosen.is_allowed:
            return None
        rivals = list(dict.fromkeys(self._rivals(everyone, cluster, demand)))

        def best_at(rate: float) -> Candidate | None:
            at = demand.at(rate)
            best = best_of([self.judge(candidate, cluster, at) for candidate in rivals])
            return best.candidate if best.is_allowed else None

        most = chosen.prediction.max_requests_per_s
        return sensitivity(chosen.candidate, demand.load.requests_per_s, most, best_at)

    def _rivals(
        self, everyone: Sequence[Judged], cluster: ClusterShape, demand: Demand
    ) -> Iterator[Candidate]:
        yield from (j.candidate for j in everyone[:_NUM_RIVALS])
        by_rate = sorted(everyone, key=lambda j: j.prediction.max_requests_per_s)
        chosen = everyone[0].prediction.max_requests_per_s
        less = [j.candidate for j in by_rate if j.prediction.max_requests_per_s < chosen]
        more = [j.candidate for j in by_rate if j.prediction.max_requests_per_s > chosen]
        yield from (*less[-_NUM_RIVALS:], *more[:_NUM_RIVALS], *more[-_NUM_RIVALS:])
        # At rest gateways are idle or alone: all else being equal, the fewest are the cheapest.
        fewest: dict[Candidate, Candidate] = {}
        for candidate in sorted((j.candidate for j in everyone), key=lambda c: c.gateways):
            fewest.setdefault(finer(candidate, 0), candidate)
        rest = demand.at(0.0)
        idle = [self.judge(candidate, cluster, rest) for candidate in fewest.values()]
        idle.sort(key=lambda j: j.exact_key)
        yield from (j.candidate for j in idle[:_NUM_RIVALS])


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice with everything it was made from."""

    chosen: Judged | None  # None: every candidate breaks a limit
    verdicts: tuple[Judged, ...]  # best first; those that break limits follow
    sensitivity: Sensitivity | None  # None where nothing is chosen


def plan(
    shape: ModelShape,
    calibration: Calibration,
    cluster: ClusterShape,
    objectives: Objectives,
    load: Load,
    *,
    mode: Mode | None = None,
) -> Plan:
    """The best candidate that breaks no limit; ``mode`` None is auto.

    Raises:
        ValueError: The calibration lacks a link of the cluster's transports.
    """
    planner = Planner(shape=shape, calibration=calibration, objectives=objectives, mode=mode)
    return planner.plan(cluster, Demand(load))


def _worth_refining(judged: Sequence[Judged]) -> Iterator[Candidate]:
    """The best, and those that carry most a machine, each with the number of gateways it has now.

    Of candidates that differ in this number alone, the best one: its neighbours in the list bound
    the gap that is looked into.
    """
    families: dict[Candidate, Judged] = {}
    for each in judged:
        if each.is_possible:
            families.setdefault(finer(each.candidate, 0), each)
    bases = list(families.values())
    leanest = sorted(bases, key=lambda j: -j.prediction.max_requests_per_s / num_nodes(j.candidate))
    yield from dict.fromkeys(j.candidate for j in (*bases[:_NUM_REFINED], *leanest[:_NUM_REFINED]))


def _refine(base: Candidate, cluster: ClusterShape, judged: Callable[[Candidate], Judged]) -> None:
    """Judge the best number of gateways between the listed ones, and those on the way to it.

    Fewer break a limit or queue, more cost machines: what they break and cost falls, then rises.
    Of those as good as the best one but for a grain, the fewest are looked for, too.
    """
    valid = gateway_counts(base, cluster)
    low = max(valid.start, base.gateways // _GAP)
    high = min(valid.stop - 1, base.gateways * _GAP)

    def at(gateways: int) -> Judged:
        return judged(finer(base, gateways))

    best = _first(low, high, lambda n: at(n + 1).exact_key >= at(n).exact_key)
    _first(low, best, lambda n: at(n).is_near(at(best)))


def _first(low: int, high: int, is_far_enough: Callable[[int], bool]) -> int:
    """The first number from ``low`` on for which it holds, which it does at ``high``: bisection."""
    while low < high:
        middle = (low + high) // 2
        if is_far_enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
