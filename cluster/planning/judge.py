"""One judgement of candidates, and their order: for the planner, what-if and the autoscaler. Pure.

Every mode has a cost, which falls as a candidate gets better:

* latency: the completion time of a mean request, seconds;
* throughput: 1 / (requests/s at the limits), seconds a request;
* auto: completion time times nodes^w, w being ``Objectives.weight``; of w > 1 the w-th root of
  that, so that a difference of 10 % is 10 % more machines, as it is 10 % more time of w <= 1.

A queue adds to the completion time what it makes the mean request wait (``Queue.mean_wait_s``):
who carries more empties it sooner, and is worth that much, not more. So does, where no time is
promised, a load of now that is too much: whoever carries it may be so slow that a queue is the
lesser evil for as long as a burst lasts. If it lasts, the queue grows, and with it the cost.

Promises are limits: whoever breaks one comes after all that keep them, by how much it breaks. Among
those that keep them an operator expects the fewest machines that have some headroom, which others
set as a utilisation to aim at (Kubernetes' HPA, KEDA: usually 70 to 80 %). The weight says alike:
where time grows as 1 / (1 - u) with the utilisation u, as it does where all that run share a step,
machines^w · time is least at u = w / (1 + w). That is 80 % for w = 4, the usual weight where a time
is promised; the promise then bounds how slow it may get. Where nothing is promised nobody has said
how slow is slow enough: w = 1, u = 50 %, a second machine has to halve the time of every request.
The fewest machines without more ado would run at the edge of a promise, where noise in the load
changes the topology back and forth, and a change would be worth nothing until a promise is broken.
This cost rises before that, and is continuous in the load: what a change saves is a number
(``gain``), which the hysteresis needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.limits import Broken, Constraint, broken_limits, excess_of, slack_of, told
from cluster.planning.load import Demand, Objectives
from galerne.topology import LinkTransport, Mode

# Most important first; the cost in grains comes before them, and the simpler candidate after them.
# Of as many machines the one that carries more: what it is ready for costs nothing.
_CRITERIA = (
    *("nodes", "max_requests_per_s", "cost", "slack", "completion_s"),
    *("ttft_p95_s", "inter_token_p95_s"),
)
_WORDS = {
    "nodes": "takes {own:.0f} nodes, the chosen one {best:.0f}",
    "cost": "costs {more} more",
    "slack": "leaves {own:.1%} of its tightest promise, the chosen one {best:.1%}",
    "completion_s": "answers {more} later",
    "max_requests_per_s": "carries {less} less",
    "ttft_p95_s": "first token (p95) {more} later",
    "inter_token_p95_s": "tokens (p95) {more} slower",
}
_MORE_IS_BETTER = frozenset({"slack", "max_requests_per_s"})
# A load that is too much is taken to last as long as so many requests: the time in which the queue
# of gateways at their limits shows. A shorter one makes them look cheaper than they are.
_LASTS = 10
_GRAIN = 0.05  # a difference below what a prediction can tell apart


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
    def exact_key(self) -> tuple[int, float, float]:
        """Smaller is better: what it breaks, then its cost."""
        return sum(not b.is_by_load for b in self.broken), self.excess, self.cost

    def is_near(self, best: Judged) -> bool:
        """Whether it breaks no more and its cost is within a grain of the best one's."""
        *broken, cost = best.exact_key
        return self.exact_key <= (*broken, cost * (1 + _GRAIN))

    def value_of(self, criterion: str) -> float:
        """A criterion's number."""
        if criterion == "nodes":
            return num_nodes(self.candidate)
        own = self if criterion in ("cost", "slack") else self.prediction
        return float(getattr(own, criterion))

    def lost_to(self, best: Judged) -> str:
        """In words, the first criterion in which it is worse than the best one.

        Both break nothing, so that all but the slack are finite and above 0.
        """
        names = _CRITERIA if self.is_near(best) else ("cost",)
        name = next((n for n in names if self.value_of(n) != best.value_of(n)), None)
        if name is None:
            return "as good; the simpler one is chosen"
        own, least = self.value_of(name), best.value_of(name)
        more, less = (
            ("", "") if name == "slack" else (_share(own / least - 1), _share(1 - own / least))
        )
        return _WORDS[name].format(own=own, best=least, more=more, less=less)


def judge(
    candidate: Candidate,
    prediction: Prediction,
    demand: Demand,
    cluster: ClusterShape,
    objectives: Objectives,
    mode: Mode | None,
) -> Judged:
    """Judge one candidate by its prediction under the demand's load; mode None is auto."""
    broken = broken_limits(candidate, prediction, cluster, objectives, demand)
    return Judged(
        candidate=candidate,
        prediction=prediction,
        broken=broken,
        cost=cost_of(candidate, prediction, objectives, mode, demand),
        excess=excess_of(prediction, objectives, demand.queue),
        slack=slack_of(prediction, objectives),
        reason=told(broken),
    )


def cost_of(
    candidate: Candidate,
    prediction: Prediction,
    objectives: Objectives,
    mode: Mode | None,
    demand: Demand | None = None,
) -> float:
    """What a mode makes small; see above. ``demand`` unset: no queue, and a load that lasts."""
    if mode is Mode.THROUGHPUT:
        return 1 / prediction.max_requests_per_s
    weight = 0.0 if mode else objectives.weight
    return weighed(_completion_s(candidate, prediction, demand), num_nodes(candidate), weight)


def _completion_s(candidate: Candidate, prediction: Prediction, demand: Demand | None) -> float:
    """With the wait that a queue brings.

    A load that is not carried makes a queue of its own, from now to the horizon, before gateways at
    their limits; there a request takes, by Little's law, running / (requests/s) seconds.
    """
    if demand is None or demand.queue is None:
        return prediction.completion_s
    capacity, queue = prediction.max_requests_per_s, demand.queue
    if prediction.is_carried:
        return prediction.completion_s + queue.mean_wait_s(capacity)
    full_s = prediction.running * candidate.gateways / capacity
    rate, lasts_s = demand.load.requests_per_s, max(queue.horizon_s, _LASTS * full_s)
    queue = replace(queue, requests_per_s=rate, horizon_s=lasts_s)
    return full_s + queue.mean_wait_s(capacity)


def weighed(completion_s: float, nodes: float, weight: float) -> float:
    """``completion_s * nodes ** weight``, of which the root is taken if the weight is above 1."""
    root = max(weight, 1.0)
    cost: float = completion_s ** (1 / root) * nodes ** (weight / root)
    return cost


def ranked(judged: Sequence[Judged]) -> tuple[Judged, ...]:
    """The best first, every other with its reason.

    Raises:
        ValueError: There is no candidate.
    """
    if not judged:
        raise ValueError("no candidate")
    best, *others = sorted(judged, key=_order(judged))
    return (best, *(j if j.broken else replace(j, reason=j.lost_to(best)) for j in others))


def best_of(judged: Sequence[Judged]) -> Judged:
    """The first one of ``ranked``, without a reason."""
    return min(judged, key=_order(judged))


def _order(judged: Sequence[Judged]) -> Callable[[Judged], tuple[object, ...]]:
    """A key, smaller being better: what it breaks, the cost in grains, criteria, the simpler one.

    Grains are counted from the least cost, so that between two candidates there is one load at
    which the choice changes. Within one the fewest machines win: none is taken for less than a
    prediction can tell. Whoever is at least as good in every criterion has no larger key.
    """
    least = min(judged, key=lambda j: j.exact_key).cost

    def key(one: Judged) -> tuple[object, ...]:
        *broken, cost = one.exact_key
        criteria = ((-1 if n in _MORE_IS_BETTER else 1) * one.value_of(n) for n in _CRITERIA)
        return (*broken, _grains(cost, least), *criteria, _tie_key(one.candidate))

    return key


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


def _share(part: float) -> str:
    return f"{part:,.0%}" if abs(part) >= 0.1 else f"{100 * part:.2g}%"


def _grains(cost: float, least: float) -> float:
    if cost <= least * (1 + _GRAIN):
        return 0.0
    return math.floor(math.log(cost / least, 1 + _GRAIN)) if math.isfinite(cost) else math.inf


def _tie_key(candidate: Candidate) -> tuple[str | int, ...]:
    """A fixed order of candidates that nothing else tells apart: the simpler first."""
    return (
        candidate.is_sliced,
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
