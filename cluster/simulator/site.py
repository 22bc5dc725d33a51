"""A place to simulate: the autoscaler over its machines, against topologies that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates, sliced
from cluster.planning.judge import Judged
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from cluster.planning.shape import ModelShape
from cluster.simulator.compare import Comparison, compare
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.run import Setup
from cluster.simulator.scaling import Scaling
from cluster.simulator.timing import models
from cluster.simulator.workload import Arrival
from galerne.errors import ConfigError
from galerne.topology import Mode

_BIN_S = 60.0  # of the busiest time


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A model on machines of which one is there and the others may be asked for."""

    shape: ModelShape
    calibration: Calibration
    cluster: ClusterShape
    objectives: Objectives
    has_sliced: bool = False  # fixed topologies with sliced experts are compared, too
    node_s: float  # from asking for a machine to its coming
    change_s: float  # from then to the commit

    def compare(self, arrivals: Sequence[Arrival], num_static: int) -> Comparison:
        """The autoscaler from what it chooses at rest, and fixed topologies, under this load.

        Fixed are the planner's choices in both modes, in auto for the mean load, for its busiest
        minute and for none, then the best of every other shape under the mean load. Besides, if
        they are asked for, the best with sliced experts for the mean load and the busiest minute.

        Raises:
            ConfigError: No topology keeps all limits at rest, or a request fits in no cache.
        """
        planner = Planner(
            shape=self.shape, calibration=self.calibration, objectives=self.objectives
        )
        demands = _demands(arrivals)
        rest, mean, peak = (planner.rank(self.cluster, demand) for demand in demands)
        if not rest[0].is_allowed:
            raise ConfigError("topology", "auto", f"none keeps all limits: {rest[0].reason}")
        of_modes = (replace(planner, mode=mode).rank(self.cluster, demands[1])[0] for mode in Mode)
        best = [*of_modes, mean[0], peak[0], rest[0], *_best_shapes(mean)]
        fixed = list(dict.fromkeys(j.candidate for j in best if j.is_possible))[:num_static]
        beside = self._sliced(planner, demands[1:])
        fixed += dict.fromkeys(j.candidate for j in beside if j.is_possible)
        scaling = Scaling(
            autoscaler=Autoscaler(ScalerConfig(), planner),
            cluster=self.cluster,
            supply=NodeSupply(at_start=1, most=self.cluster.num_nodes, provision_s=self.node_s),
            change_s=lambda old, new: self.change_s,
        )
        setup = Setup(model_of=models(self.shape, self.calibration), start=rest[0].candidate)
        weight = self.objectives.weight
        try:
            return compare(arrivals, fixed, setup, scaling, weight)
        except ValueError as error:
            raise ConfigError("workload", f"{len(arrivals)} requests", str(error)) from error

    def _sliced(self, planner: Planner, demands: Iterable[Demand]) -> Iterator[Judged]:
        """The best with sliced experts for each demand, if they are asked for and there are any."""
        if not self.has_sliced:
            return
        whole = candidates(self.shape, self.cluster, self.objectives)
        if only := list(sliced(whole)):
            yield from (replace(planner, only=only).rank(self.cluster, d)[0] for d in demands)


def _best_shapes(ranked: Sequence[Judged]) -> Iterable[Judged]:
    """The first of each shape, whatever its caps."""
    found: dict[Candidate, Judged] = {}
    for judged in ranked:
        shape = replace(judged.candidate, mode=Mode.LATENCY, max_num_seqs=0, max_batched_tokens=0)
        found.setdefault(shape, judged)
    return found.values()


def _demands(arrivals: Sequence[Arrival]) -> tuple[Demand, Demand, Demand]:
    """At rest, in the mean, in the busiest minute."""
    number = len(arrivals)
    seconds = max(arrivals[-1].at_s, 1.0)
    busiest = max(Counter(int(a.at_s // _BIN_S) for a in arrivals).values())
    mean = Load(
        requests_per_s=number / seconds,
        prompt_tokens=sum(a.prompt_tokens for a in arrivals) / number,
        output_tokens=sum(a.output_tokens for a in arrivals) / number,
    )
    demand = Demand(mean)
    return demand.at(0.0), demand, demand.at(busiest / min(_BIN_S, seconds))
