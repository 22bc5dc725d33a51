"""One judgement of candidates, and their order: for the planner, what-if and the autoscaler. Pure.

Every mode has a cost, which falls as a candidate gets better:

* latency: the completion time of a mean request, seconds;
* throughput: 1 / (requests/s at the limits), seconds a request;
* auto: completion time times nodes^w, w being ``Objectives.node_weight``.

Auto does not simply take the fewest machines that keep the promises, although an operator with
promises might look for that first: those few would run at the edge of a promise, a change would be
worth nothing until it is broken, and how quick a shape is would never count. With w = 1 a second
machine already has to halve the time of every request, so there are more than the fewest only where
these would queue; and whoever wants the fewest says so with a larger w. As the cost is continuous
in the load, what a change saves is a number (``gain``), which the autoscaler's hysteresis needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.limits import Broken, Constraint, broken_limits, excess_of, slack_of
from cluster.planning.load import Load, Objectives
from galerne.topology import LinkTransport, Mode

# Most important first; the rest break ties.
_CRITERIA = (
    *("cost", "nodes", "slack", "completion_s", "max_requests_per_s"),
    *("ttft_p95_s", "inter_token_p95_s"),
)
_MORE_IS_BETTER = frozenset({"slack", "max_requests_per_s"})
_GRAIN = 0.05  # a difference below what a prediction can tell apart; it decides only between equals


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate under a load: what it would give and break, and why it is not the chosen one."""

    candidate: Candidate
    prediction: Prediction
    broken: tuple[Broken, ...]  # the hardest first
    cost: float  # by mode, see above
    excess: float  # how many times over the promise that it breaks most; 1: none is broken
    slack: float  # part of the tightest promise that is left
    reason: str  # empty: it breaks nothing, and nothing is better

    @property
    def is_allowed(self) -> bool:
        """Whether it breaks no limit."""
        return not self.broken

    @property
    def is_possible(self) -> bool:
        """Whether machines, their memory and copies permit it, whatever the load."""
        return all(broken.is_by_load for broken in self.broken)

    @property
    def constraint(self) -> Constraint:
        """The hardest limit that it breaks."""
        return self.broken[0].field if self.broken else Constraint.COST

    @property
    def key(self) -> tuple[object, ...]:
        """Smaller is better: first what it breaks, then ``_CRITERIA``, then the simpler one.

        Whoever is at least as good in every criterion has no larger key. They are compared in
        grains of 5 % first, so that no machine is taken and no topology changed for less than a
        prediction can tell; then exactly.
        """
        num_impossible = sum(not broken.is_by_load for broken in self.broken)
        return (num_impossible, self.excess, *self._order, _tie_key(self.candidate))

    @property
    def _order(self) -> tuple[float, ...]:
        values = [(name, self.value_of(name)) for name in _CRITERIA]
        coarse = (_signed(name, _coarse(name, value)) for name, value in values)
        return (*coarse, *(_signed(name, value) for name, value in values))

    def value_of(self, criterion: str) -> float:
        """A criterion's number."""
        if criterion == "nodes":
            return num_nodes(self.candidate)
        own = self if criterion in ("cost", "slack") else self.prediction
        return float(getattr(own, criterion))

    def lost_to(self, best: Judged) -> str:
        """The first criterion in which it differs from the best one, if it breaks nothing."""
        names = zip(_CRITERIA * 2, self._order, best._order, strict=True)
        name = next((name for name, own, other in names if own != other), None)
        if name is None:
            return "as good; the simpler one is chosen"
        return f"{name}: {self.value_of(name):.6g}, the chosen one {best.value_of(name):.6g}"


def judge(
    candidate: Candidate,
    prediction: Prediction,
    load: Load,
    cluster: ClusterShape,
    objectives: Objectives,
    mode: Mode | None,
) -> Judged:
    """Judge one candidate by its prediction under ``load``; mode None is auto."""
    broken = broken_limits(candidate, prediction, cluster, objectives, load)
    return Judged(
        candidate=candidate,
        prediction=prediction,
        broken=broken,
        cost=cost_of(candidate, prediction, objectives, mode),
        excess=excess_of(prediction, objectives),
        slack=slack_of(prediction, objectives),
        reason="; ".join(map(str, broken)),
    )


def cost_of(
    candidate: Candidate, prediction: Prediction, objectives: Objectives, mode: Mode | None
) -> float:
    """What a mode makes small; see above."""
    if mode is Mode.THROUGHPUT:
        return 1 / prediction.max_requests_per_s
    weight: float = 1.0 if mode else num_nodes(candidate) ** objectives.node_weight
    return prediction.completion_s * weight


def stressed(usual: Judged, hard: Judged) -> Judged:
    """Cheap for the usual load; what is broken under the harder one is broken."""
    return replace(usual, broken=hard.broken, excess=hard.excess, reason=hard.reason)


def ranked(judged: Sequence[Judged]) -> tuple[Judged, ...]:
    """The best first, every other with its reason.

    Raises:
        ValueError: There is no candidate.
    """
    if not judged:
        raise ValueError("no candidate")
    best, *others = sorted(judged, key=lambda j: j.key)
    return (best, *(j if j.broken else replace(j, reason=j.lost_to(best)) for j in others))


def gain(old: Judged, new: Judged) -> float:
    """Share of the cost that a change saves; 1 where the old one breaks more than the new one."""
    if new.is_possible and not old.is_possible:
        return 1.0
    if old.excess > new.excess * 1.001:
        return 1.0
    if new.excess > old.excess * 1.001 or not math.isfinite(new.cost):
        return 0.0
    if not math.isfinite(old.cost):
        return 1.0
    return 1.0 - new.cost / old.cost if old.cost > 0 else 0.0


def binding(everyone: Sequence[Judged], chosen: Judged) -> Constraint:
    """What keeps a cheaper candidate than the chosen one from being chosen."""
    if chosen.broken:
        return chosen.constraint
    cheaper = [j for j in everyone if j.cost < chosen.cost and j.broken]
    return min(cheaper, key=lambda j: j.cost).constraint if cheaper else Constraint.COST


def _signed(criterion: str, value: float) -> float:
    return -value if criterion in _MORE_IS_BETTER else value


def _coarse(criterion: str, value: float) -> float:
    """In grains: of the value itself, or of a promise."""
    if criterion == "nodes" or not math.isfinite(value):
        return value
    if criterion == "slack":
        return math.floor(value / _GRAIN)
    return math.floor(math.log(value) / _GRAIN) if value > 0 else -math.inf


def _tie_key(candidate: Candidate) -> tuple[str | int, ...]:
    """A fixed order of candidates that nothing else tells apart: the simpler first."""
    return (
        candidate.transport is not LinkTransport.LOCAL,
        candidate.shards,
        candidate.replicas,
        candidate.micro_batches,
        candidate.gateways,
        candidate.max_num_seqs,
        candidate.max_batched_tokens,
        candidate.transport.value,
        candidate.mode.value,
        candidate.shard_nodes,
        candidate.gateway_nodes,
    )
