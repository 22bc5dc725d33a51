"""Time as a port, so that decisions can be tested with a clock moved by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic time."""

    def now_s(self) -> float:
        """Seconds since an arbitrary fixed moment; never goes back."""
        ...


class MonotonicClock:
    """The process' own monotonic clock."""

    def now_s(self) -> float:
        """Seconds of ``time.monotonic``."""
        return time.monotonic()


class VirtualClock:
    """Time that stands still until it is moved: of a run that is repeated."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """Seconds, where the clock was moved to last."""
        return self._now_s

    def move_to(self, now_s: float) -> None:
        """Let it be later; it never goes back."""
        self._now_s = max(self._now_s, now_s)
