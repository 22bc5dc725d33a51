"""What the controller counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from cluster.planning.decision import Decision, Outcome


class ControlMetrics:
    """In a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"galerne_{name}", text, labels, registry=self.registry)

        self.epoch = gauge("epoch", "Epoch that serves.")
        self.balancedness = gauge(
            "balancedness", "Mean over layers of mean shard load / largest; 1 is even."
        )
        self.lost_shards = gauge("lost_shards", "Shards that count as lost now.")
        self.turns = gauge("control_loop_turns", "Progress of the controller's loops.", "loop")
        self.events = Counter(
            "galerne_cluster_events", "What has happened.", ["kind", "part"], registry=self.registry
        )

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)


class ScalerMetrics:
    """What the autoscaler sees, expects and does; in the registry of the controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"galerne_autoscaler_{name}", text, labels, registry=registry)

        self._decisions = Counter(
            "galerne_autoscaler_decisions",
            "Decisions made, holds too, by what decided.",
            ["action", "binding"],
            registry=registry,
        )
        self._held = gauge("objectives_held", "1: predicted for what serves now, queue included.")
        self._rate = gauge("load_requests_per_s", "Requests that came in the window.", "estimate")
        self._waiting = gauge("waiting", "Requests in all queues.")
        self._ttft = gauge("ttft_p95_seconds", "Of the window, measured and predicted.", "kind")
        self._inter_token = gauge(
            "inter_token_p95_seconds", "Of the window, measured and predicted.", "kind"
        )
        self._error = gauge("calibration_error", "Median relative error of predictions so far.")
        self._regret = gauge("regret", "Of the last decision that was judged, against the best.")

    def decided(self, decision: Decision) -> None:
        """A decision was made."""
        seen = decision.observed
        self._decisions.labels(decision.action.value, decision.binding.value).inc()
        self._held.set(decision.are_objectives_held)
        self._rate.labels("mean").set(seen.load.requests_per_s)
        self._rate.labels("upper").set(seen.upper.requests_per_s)
        self._waiting.set(seen.waiting)
        self._ttft.labels("measured").set(seen.ttft_p95_s or 0.0)
        self._inter_token.labels("measured").set(seen.inter_token_p95_s or 0.0)
        found = next((r for r in decision.ranked if r.candidate == decision.current), None)
        if found is not None:
            self._ttft.labels("predicted").set(found.prediction.ttft_p95_s)
            self._inter_token.labels("predicted").set(found.prediction.inter_token_p95_s)

    def judged(self, outcome: Outcome, calibration_error: float | None) -> None:
        """A decision has its outcome."""
        self._regret.set(outcome.regret)
        if calibration_error is not None:
            self._error.set(calibration_error)
