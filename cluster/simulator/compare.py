"""Every candidate held fixed, and the autoscaler, under the same arrivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.planning.candidate import Candidate, short
from cluster.planning.judge import weighed
from cluster.simulator.result import Result
from cluster.simulator.run import Setup, simulate
from cluster.simulator.scaling import Scaling
from cluster.simulator.workload import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What every choice gave."""

    auto: Result
    static: Sequence[tuple[Candidate, Result]]
    node_weight: float

    @property
    def best(self) -> tuple[Candidate, Result]:
        """The static candidate of least cost, of those that the autoscaler could have chosen."""
        possible = [pair for pair in self.static if not pair[0].is_sliced]
        return min(possible, key=lambda pair: self.cost_of(pair[1]))

    @property
    def regret(self) -> float:
        """Cost of the autoscaler over the best static candidate's, less 1; below 0: it beat it."""
        return self.cost_of(self.auto) / self.cost_of(self.best[1]) - 1

    def cost_of(self, result: Result) -> float:
        """See the function of that name."""
        return cost_of(result, self.node_weight)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "auto": self.auto.to_dict(),
            "static": [{"name": short(c)} | result.to_dict() for c, result in self.static],
            "regret": self.regret if math.isfinite(self.regret) else None,
        }


def cost_of(result: Result, node_weight: float) -> float:
    """As the planner weighs: the mean completion time and the mean number of nodes."""
    completion_s = result.latencies.completion_s.mean
    if completion_s is None or result.num_unserved:
        return math.inf
    seconds = result.samples[-1].at_s if result.samples else 0.0
    nodes = result.node_seconds / seconds if seconds else 1.0
    return weighed(completion_s, nodes, node_weight)


def compare(
    arrivals: Sequence[Arrival],
    candidates: Sequence[Candidate],
    setup: Setup,
    scaling: Scaling,
    node_weight: float,
) -> Comparison:
    """Simulate all of them; ``setup.start`` is where the autoscaler begins.

    Raises:
        ValueError: There is no candidate that the autoscaler could choose.
    """
    if all(candidate.is_sliced for candidate in candidates):
        raise ValueError("no candidate")
    static = [(c, simulate(arrivals, replace(setup, start=c))) for c in candidates]
    auto = simulate(arrivals, setup, scaling)
    return Comparison(auto=auto, static=static, node_weight=node_weight)
