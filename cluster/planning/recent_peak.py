"""The largest of what was seen lately: what a load of now is not, but may soon be again."""

from __future__ import annotations

from collections import deque


class RecentPeak:
    """The maximum over a sliding time; memory holds falling values only.

    Args:
        keep_s: Seconds for which a value counts; 0: only the last one.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._falling: deque[tuple[float, float]] = deque()  # time and value, both in order

    def saw(self, at_s: float, value: float) -> float:
        """One more value, not before the others; the largest since ``at_s - keep_s``."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((at_s, value))
        while self._falling[0][0] < at_s - self._keep_s:
            self._falling.popleft()
        return self._falling[0][1]
