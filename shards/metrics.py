"""What a shard counts. Plain arrays: the native loop over rings adds to them as well."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shards.wire import RequestRows

_BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class ShardMetrics(Collector):
    """Counters of one shard. One thread writes: the one that computes."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self.expert_rows = np.zeros((num_layers, num_experts), np.int64)
        self.totals = np.zeros(3, np.int64)  # frames, rows, nanoseconds
        self.bounds_ns = np.array([s * 1e9 for s in _BOUNDS_S], np.int64)
        self.passes = np.zeros(len(_BOUNDS_S) + 1, np.int64)  # by how long they took
        self._merged = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.resident_bytes = Gauge(
            "galerne_shard_resident_bytes", "Bytes of experts", registry=self._registry
        )

    @property
    def num_frames(self) -> int:
        """Frames computed."""
        return int(self.totals[0])

    @property
    def num_rows(self) -> int:
        """Rows computed."""
        return int(self.totals[1])

    @property
    def compute_seconds(self) -> float:
        """Time inside passes."""
        return float(self.totals[2]) / 1e9

    def computed(self, layer: int, rows: RequestRows, num_frames: int, seconds: float) -> None:
        """Count one pass; one without rows, of a layer that may not exist, counts nothing."""
        if not len(rows.row_token):
            return
        ns = int(seconds * 1e9)
        self.totals += (num_frames, len(rows.row_token), ns)
        self.passes[np.searchsorted(self.bounds_ns, ns)] += 1
        if num_frames > 1:
            self._merged += num_frames
        np.add.at(self.expert_rows[layer], rows.expert_ids, rows.num_rows_by_group)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        for name, text, value in (
            ("frames", "Frames computed", self.num_frames),
            ("rows", "Rows computed", self.num_rows),
            ("merged_frames", "Frames that shared a pass", self._merged),
        ):
            yield CounterMetricFamily(f"galerne_shard_{name}", text, value=value)
        bounds = (*map(str, map(float, _BOUNDS_S)), "+Inf")
        buckets = list(zip(bounds, accumulate(self.passes.tolist()), strict=True))
        yield HistogramMetricFamily(
            "galerne_shard_compute_seconds", "One pass", buckets, self.compute_seconds
        )
        by_expert = CounterMetricFamily(
            "galerne_shard_expert_tokens", "Rows by expert", labels=("layer", "expert")
        )
        for layer, expert in np.argwhere(self.expert_rows):
            rows = float(self.expert_rows[layer, expert])
            by_expert.add_metric((str(layer), str(expert)), rows)
        yield by_expert

    def text(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)
