"""What a shard counts, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shards.wire import RequestRows

_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class ShardMetrics:
    """Counters of one shard."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._frames = Counter("galerne_shard_frames", "Frames computed", registry=self.registry)
        self._rows = Counter("galerne_shard_rows", "Rows computed", registry=self.registry)
        self._merged = Counter(
            "galerne_shard_merged_frames", "Frames that shared a pass", registry=self.registry
        )
        self._seconds = Histogram(
            "galerne_shard_compute_seconds", "One pass", buckets=_BUCKETS, registry=self.registry
        )
        self._tokens = Counter(
            "galerne_shard_expert_tokens",
            "Rows by expert",
            ("layer", "expert"),
            registry=self.registry,
        )
        self.resident_bytes = Gauge(
            "galerne_shard_resident_bytes", "Bytes of experts", registry=self.registry
        )
        self.num_frames = 0
        self.num_rows = 0
        self.compute_seconds = 0.0

    def computed(self, layer: int, rows: RequestRows, num_frames: int, seconds: float) -> None:
        """Count one pass."""
        self.num_frames += num_frames
        self.num_rows += len(rows.row_token)
        self._frames.inc(num_frames)
        self._rows.inc(len(rows.row_token))
        if num_frames > 1:
            self._merged.inc(num_frames)
        self._seconds.observe(seconds)
        self.compute_seconds += seconds
        for expert, count in zip(
            rows.expert_ids.tolist(), rows.num_rows_by_group.tolist(), strict=True
        ):
            self._tokens.labels(layer, expert).inc(count)

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)
