"""What steps have taken, by how many rows they had: measured while serving."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

_EXACT_UP_TO = 16  # rows with a place of their own; beyond, places grow by an eighth
_NEWEST = 0.05  # weight of a measurement against all before
_MOST_OVER = 3.0  # a step that took longer met something else on the machine
_OLD = 256  # measurements of others, after which what is measured anew counts alone
_FIRST = 3  # measurements of which the least counts, as there is no mean to tell a long one by


class CostByRows:
    """Seconds by number of rows, from a running mean at every number that came.

    Between two known numbers on a straight line; nothing falls as rows are added: where two numbers
    contradict that, the one that was measured later is right. Beyond the largest known one no more
    is said than at it, so that it is tried once and then known.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []  # known places, ascending
        self._mean_s: dict[int, float] = {}
        self._count: dict[int, int] = {}
        self._num = 0  # measurements of all places
        self._newest: dict[int, int] = {}  # the number of the newest one of each
        self._rising_s: list[float] = []  # by place, the largest mean up to it; empty: not made

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of ``num_rows`` took ``seconds``."""
        place = _place(num_rows)
        if place not in self._mean_s:
            self._rows.insert(bisect_left(self._rows, place), place)
        self._num += 1
        if self._num - self._newest.get(place, 0) > _OLD:
            self._count[place], self._mean_s[place] = 0, seconds
        self._newest[place] = self._num
        count = self._count[place] = self._count.get(place, 0) + 1
        mean_s = self._mean_s.get(place, seconds)
        if count <= _FIRST:
            mean_s = min(mean_s, seconds)
        else:
            mean_s += max(1 / count, _NEWEST) * (min(seconds, _MOST_OVER * mean_s) - mean_s)
        self._mean_s[place] = mean_s
        for fewer in self._rows[: bisect_left(self._rows, place)]:
            self._mean_s[fewer] = min(self._mean_s[fewer], mean_s)
        self._rising_s = []

    def is_measured(self, num_rows: int) -> bool:
        """Whether steps of so many rows, or of a number that stands for it, are known."""
        return self._count.get(_place(num_rows), 0) >= _FIRST

    def seconds(self, num_rows: int) -> float | None:
        """What a step of ``num_rows`` may take; None if nothing is known."""
        if not self._rows:
            return None
        place = _place(num_rows)
        if not self._rising_s:
            self._rising_s = list(accumulate((self._mean_s[rows] for rows in self._rows), max))
        right = bisect_left(self._rows, place)
        if right == len(self._rows):
            return self._rising_s[-1]
        if self._rows[right] == place or right == 0:
            return self._rising_s[right]
        below, above = self._rows[right - 1], self._rows[right]
        low_s, high_s = self._rising_s[right - 1 : right + 1]
        return low_s + (high_s - low_s) * (num_rows - below) / (above - below)


def _place(num_rows: int) -> int:
    """The number of rows that stands for its neighbours: beyond 16 its first four binary digits."""
    if num_rows <= _EXACT_UP_TO:
        return num_rows
    width = 1 << (num_rows.bit_length() - 4)
    return num_rows // width * width
