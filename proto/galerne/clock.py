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
