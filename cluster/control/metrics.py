"""What the controller counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


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
