"""Histograms as plain numbers: for hot paths, and where no metrics package is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Buckets(NamedTuple):
    """One histogram: values of its labels, upper bounds and counts up to them, and the sum."""

    labels: Sequence[str]
    cumulative: Sequence[tuple[str, float]]
    total: float


class TimeBuckets:
    """A histogram without a lock, for hot paths with one writer."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        """Ascending upper bounds; infinity comes on top."""
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self._total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one sample."""
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._total_s += seconds

    def read(self, *labels: str) -> Buckets:
        """For ``show_histogram``."""
        return Buckets(labels, cumulative(self._bounds_s, self._counts), self._total_s)


def cumulative(bounds: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Upper bounds, and how many were at most that, of counts by bucket (one more than bounds)."""
    names = (*map(str, map(float, bounds)), "+Inf")
    return [(name, float(sum_)) for name, sum_ in zip(names, accumulate(counts), strict=True)]
