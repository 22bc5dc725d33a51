"""Quantiles of many samples in little memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_GROWTH = 1.02  # of a bin's bounds: a quantile is right to 1 %
_LOG_GROWTH = math.log(_GROWTH)
_LEAST = 1e-9  # whatever is smaller falls into one bin


class LogHistogram:
    """Counts in bins whose bounds grow by 2 %.

    A quantile is the geometric middle of its bin, so it is off by 1 % at most. Adding equal samples
    costs the same for one as for a million.

    Attributes:
        count: Samples.
        total: Their sum, exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, value: float, count: int = 1) -> None:
        """Add ``count`` equal samples.

        Raises:
            ValueError: The value is negative or no finite number, or the count is negative.
        """
        if not 0 <= value < math.inf or count < 0:
            raise ValueError(f"need finite samples from 0 on, got {count} of {value}")
        self._counts[int(math.log(max(value, _LEAST) / _LEAST) / _LOG_GROWTH)] += count
        self.count += count
        self.total += value * count

    def merge(self, other: LogHistogram) -> None:
        """Add another's samples."""
        self._counts.update(other._counts)
        self.count += other.count
        self.total += other.total

    def since(self, earlier: LogHistogram) -> LogHistogram:
        """The samples that came after ``earlier`` was a copy of this one."""
        made, known = LogHistogram(), earlier._counts
        more = {index: count - known.get(index, 0) for index, count in self._counts.items()}
        made._counts.update({index: count for index, count in more.items() if count})
        made.count = self.count - earlier.count
        made.total = self.total - earlier.total
        return made

    def copy(self) -> LogHistogram:
        """One of its own with the same samples."""
        return self.since(LogHistogram())

    @property
    def mean(self) -> float | None:
        """None without samples."""
        return self.total / self.count if self.count else None

    def quantile(self, fraction: float) -> float | None:
        """The least value that ``fraction`` of the samples do not exceed; None without samples.

        Raises:
            ValueError: ``fraction`` is outside [0, 1].
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        wanted = fraction * self.count
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen and seen >= wanted:
                return _LEAST * math.exp((index + 0.5) * _LOG_GROWTH)
        return None

    def summary(self) -> Mapping[str, float | None]:
        """Mean, p50, p95, p99 for a report."""
        quantiles = {f"p{round(q * 100)}": self.quantile(q) for q in (0.5, 0.95, 0.99)}
        return {"mean": self.mean, **quantiles}
