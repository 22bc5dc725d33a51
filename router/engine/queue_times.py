"""How long requests wait until their first chunk is in a step."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Histogram

from router.engine.plan import StepEntry
from router.engine.sequence import Sequence


class QueueTimes:
    """On the engine's thread; costs nothing while nobody waits."""

    def __init__(self, histogram: Histogram) -> None:
        """``histogram`` gets seconds."""
        self._histogram = histogram
        self._since_s: dict[Sequence, float] = {}

    def queued(self, sequences: Iterable[Sequence], arrived_s: float) -> None:
        """They wait to be scheduled; encoding their images has taken part of the time."""
        for sequence in sequences:
            self._since_s[sequence] = arrived_s

    def planned(self, entries: Iterable[StepEntry], now_s: float) -> None:
        """A step was planned."""
        if not self._since_s:
            return
        for entry in entries:
            since_s = self._since_s.pop(entry.sequence, None)
            if since_s is not None:
                self._histogram.observe(max(0.0, now_s - since_s))

    def ended(self, sequences: Iterable[Sequence]) -> None:
        """They wait no longer, and were never in a step, or long ago."""
        for sequence in sequences:
            self._since_s.pop(sequence, None)
