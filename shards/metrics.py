"""What a shard counts. Plain arrays: the native loop over rings adds to them as well."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from galerne.metric_set import Buckets, MetricSet, cumulative
from shards.wire import RequestRows

_BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class ShardMetrics:
    """Counters of one shard. One thread writes: the one that computes."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self.expert_rows = np.zeros((num_layers, num_experts), np.int64)
        self.totals = np.zeros(4, np.int64)  # frames, rows, nanoseconds computed, and queued
        self.bounds_ns = np.array([s * 1e9 for s in _BOUNDS_S], np.int64)
        self.passes = np.zeros(len(_BOUNDS_S) + 1, np.int64)  # by how long they took
        self.waits = np.zeros(len(_BOUNDS_S) + 1, np.int64)  # of frames, by how long they waited
        self.num_turns = 0  # of the compute thread's loop
        self._merged = 0
        self.set = MetricSet(has_process=True)
        self._show()

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
        self.totals[:3] += (num_frames, len(rows.row_token), ns)
        self.passes[np.searchsorted(self.bounds_ns, ns)] += 1
        if num_frames > 1:
            self._merged += num_frames
        np.add.at(self.expert_rows[layer], rows.expert_ids, rows.num_rows_by_group)

    def waited(self, seconds: float) -> None:
        """Count how long a frame was here before it was computed."""
        ns = int(seconds * 1e9)
        self.totals[3] += ns
        self.waits[np.searchsorted(self.bounds_ns, ns)] += 1

    def text(self) -> bytes:
        """Prometheus text."""
        return self.set.text()

    def _show(self) -> None:
        show = self.set.show_counter
        show("galerne_shard_frames_total", "Frames computed.", lambda: self.num_frames)
        show("galerne_shard_rows_total", "Rows computed.", lambda: self.num_rows)
        show(
            "galerne_shard_merged_frames_total",
            "Frames that shared a pass with others.",
            lambda: self._merged,
        )
        show(
            "galerne_shard_loop_turns_total",
            "Turns of the compute thread; while its native loop is busy, frames are its progress.",
            lambda: self.num_turns,
        )
        show(
            "galerne_shard_expert_rows_total",
            "Rows by number of the expert, all layers together; those without are left out.",
            self._rows_by_expert,
            "expert",
        )
        self.set.show_histogram(
            "galerne_shard_compute_seconds",
            "Service time: one pass over the experts of a layer.",
            lambda: self._buckets(self.passes, self.totals[2]),
        )
        self.set.show_histogram(
            "galerne_shard_queue_seconds",
            "From when a frame was in this host's memory until its pass began.",
            lambda: self._buckets(self.waits, self.totals[3]),
        )

    def _rows_by_expert(self) -> list[tuple[tuple[str], float]]:
        rows = self.expert_rows.sum(axis=0)
        return [((str(expert),), float(rows[expert])) for expert in np.flatnonzero(rows)]

    @staticmethod
    def _buckets(counts: npt.NDArray[np.int64], total_ns: np.int64) -> list[Buckets]:
        return [Buckets((), cumulative(_BOUNDS_S, counts.tolist()), float(total_ns) / 1e9)]
