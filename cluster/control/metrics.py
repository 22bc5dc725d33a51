"""What the controller shows: the cluster as it is, and what the autoscaler makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from cluster.control.conductor import Stage
from cluster.control.ports import Loop
from cluster.planning.decision import Decision, Outcome
from cluster.planning.load import Objectives
from galerne.metric_set import MetricSet
from galerne.topology import Mode, Topology

_KINDS = ("gateway", "shard")
# Events that alerts count: from zero on, or the first would not be seen as growth.
_WATCHED = (
    ("topology_aborted", "controller"),
    *(("part_restarted", kind) for kind in _KINDS),
)


class Conducted(Protocol):
    """The topology, as far as it is shown."""

    current: Topology
    target: Topology | None
    stage: Stage
    is_asleep: bool

    @property
    def wanted(self) -> Mapping[str, Topology]:
        """Parts that shall run."""
        ...


class Weighed(Protocol):
    """The experts' load, as far as it is shown."""

    @property
    def balancedness(self) -> float:
        """1 is even."""
        ...

    @property
    def balancedness_by_layer(self) -> Sequence[float]:
        """1 is even."""
        ...

    @property
    def peak_by_layer(self) -> Sequence[float]:
        """Rows of a layer's hottest expert / mean; 1 is even."""
        ...


class ControlMetrics:
    """In a registry of its own. ``show_...``: once each, read whenever the page is."""

    def __init__(self) -> None:
        self.set = MetricSet(has_process=True)
        self._events = self.set.counter(
            "galerne_cluster_events_total",
            "What has happened, by kind of event and of part (gateway, shard, controller).",
            "kind",
            "part",
        )
        for kind, part in _WATCHED:
            self._events.labels(kind, part)
        self.driver_calls = self.set.counter(
            "galerne_driver_calls_total",
            "Progress of the loop in the driver that starts and ends parts.",
        )

    def happened(self, kind: str, part: str) -> None:
        """Count an event. Numbers of parts are new with every change, so they are no label."""
        self._events.labels(kind, part.partition("-")[0]).inc()

    def show_topology(self, conductor: Conducted, is_live: Callable[[str], bool]) -> None:
        """What serves, and how far a change of it has come."""
        show = self.set.show_gauge

        def parts() -> Iterable[tuple[tuple[str, str], float]]:
            wanted = list(conductor.wanted)
            for kind in _KINDS:
                of_kind = [part for part in wanted if part.startswith(f"{kind}-")]
                yield (kind, "wanted"), len(of_kind)
                yield (kind, "live"), sum(map(is_live, of_kind))

        def target_epoch() -> int:
            target = conductor.target
            return conductor.current.epoch if target is None else target.epoch

        show("galerne_epoch", "Epoch that serves.", lambda: conductor.current.epoch)
        show("galerne_target_epoch", "Epoch that a change leads to.", target_epoch)
        show(
            "galerne_topology_stage",
            "1 at the stage of the change of topology; idle: none goes on.",
            lambda: [((stage.value,), float(stage is conductor.stage)) for stage in Stage],
            "stage",
        )
        show(
            "galerne_topology_mode",
            "1 at the mode of the topology that serves.",
            lambda: [((mode.value,), float(mode is conductor.current.mode)) for mode in Mode],
            "mode",
        )
        show("galerne_asleep", "1: scaled to zero.", lambda: float(conductor.is_asleep))
        show("galerne_parts", "Gateways and shards, wanted and live.", parts, "kind", "state")

    def show_experts(self, balancer: Weighed, num_lost: Callable[[], int]) -> None:
        """How even the load of the last minute is on the shards that serve."""
        show = self.set.show_gauge
        show(
            "galerne_balancedness_ratio",
            "Mean over layers of mean shard load / largest, of the last minute; 1 is even.",
            lambda: balancer.balancedness,
        )
        show(
            "galerne_layer_balancedness_ratio",
            "The same of every layer.",
            lambda: _by_layer(balancer.balancedness_by_layer),
            "layer",
        )
        show(
            "galerne_layer_peak_ratio",
            "Rows of the layer's hottest expert / mean of its experts, of the last minute.",
            lambda: _by_layer(balancer.peak_by_layer),
            "layer",
        )
        show("galerne_lost_shards", "Shards that count as lost now.", num_lost)

    def show_loops(self, loops: Callable[[], Mapping[str, Loop]]) -> None:
        """Whether they move."""
        self.set.show_counter(
            "galerne_control_loop_turns_total",
            "Progress of the controller's loops.",
            lambda: [((name,), loop.turns) for name, loop in loops().items()],
            "loop",
        )

    def text(self) -> bytes:
        """Prometheus text."""
        return self.set.text()


class ScalerMetrics:
    """What the autoscaler sees, expects and does; among those of the controller."""

    def __init__(self, made: MetricSet) -> None:
        self._set = made
        self._decisions = made.counter(
            "galerne_autoscaler_decisions_total",
            "Decisions made, holds too, by what decided.",
            "action",
            "binding",
        )
        self._failures = made.counter(
            "galerne_autoscaler_failures_total", "Decisions that could not be carried out."
        )
        self._held = made.gauge(
            "galerne_autoscaler_objectives_held",
            "1: predicted for what serves now, queue included.",
        )
        self._rate = made.gauge(
            "galerne_autoscaler_load_requests_per_second",
            "Requests that came in the window: mean, and the upper estimate.",
            "estimate",
        )
        self._waiting = made.gauge("galerne_autoscaler_waiting", "Choices in all queues.")
        self._ttft = made.gauge(
            "galerne_autoscaler_ttft_p95_seconds",
            "Of the window: measured and predicted.",
            "kind",
        )
        self._inter_token = made.gauge(
            "galerne_autoscaler_inter_token_p95_seconds",
            "Of the window: measured and predicted.",
            "kind",
        )
        self._error = made.gauge(
            "galerne_autoscaler_calibration_error_ratio",
            "Median relative error of predictions so far.",
        )
        self._regret = made.gauge(
            "galerne_autoscaler_regret_ratio",
            "Cost of the last decision that was judged, over that of the best; 0: it was.",
        )

    def show(
        self,
        objectives: Objectives,
        is_auto: Callable[[], bool],
        num_nodes: Callable[[], int],
        num_pending: Callable[[], int],
    ) -> None:
        """What it is to keep, whether it acts, and machines."""
        promised = {
            "ttft_p95": objectives.ttft_p95_s,
            "inter_token_p95": objectives.inter_token_p95_s,
        }
        self._set.show_gauge(
            "galerne_autoscaler_objective_seconds",
            "Promises; none that was not made.",
            lambda: [((name,), s) for name, s in promised.items() if s is not None],
            "objective",
        )
        self._set.show_gauge(
            "galerne_autoscaler_acts",
            "1: in mode auto; 0: it only watches.",
            lambda: float(is_auto()),
        )
        self._set.show_gauge(
            "galerne_autoscaler_nodes",
            "Machines: present, and pending (asked for and not there).",
            lambda: [(("present",), num_nodes()), (("pending",), num_pending())],
            "state",
        )

    def decided(self, decision: Decision) -> None:
        """A decision was made."""
        seen = decision.observed
        self._decisions.labels(decision.action.value, decision.binding.value).inc()
        self._held.set(decision.are_objectives_held)
        self._rate.labels("mean").set(seen.load.requests_per_s)
        self._rate.labels("upper").set(seen.upper.requests_per_s)
        self._waiting.set(seen.waiting)
        self._ttft.labels("measured").set(_or_gap(seen.ttft_p95_s))
        self._inter_token.labels("measured").set(_or_gap(seen.inter_token_p95_s))
        found = next((r for r in decision.ranked if r.candidate == decision.current), None)
        if found is not None:
            self._ttft.labels("predicted").set(found.prediction.ttft_p95_s)
            self._inter_token.labels("predicted").set(found.prediction.inter_token_p95_s)

    def failed(self) -> None:
        """A decision could not be carried out."""
        self._failures.inc()

    def judged(self, outcome: Outcome, calibration_error: float | None) -> None:
        """A decision has its outcome."""
        self._regret.set(outcome.regret)
        if calibration_error is not None:
            self._error.set(calibration_error)


def _or_gap(seconds: float | None) -> float:
    """What nothing was measured of is a gap in a graph, not a line at zero."""
    return math.nan if seconds is None else seconds


def _by_layer(values: Iterable[float]) -> list[tuple[tuple[str], float]]:
    return [((str(layer),), value) for layer, value in enumerate(values)]
