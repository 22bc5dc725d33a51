"""Whether Serve is about to end this replica, which it does not tell.

It waits for what a replica still does, and a Watch never ends by itself. But it asks no replica for
its health that is to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CHECK_PERIOD_S = 2.0  # of Serve's health checks
SILENT_AFTER_S = 5 * CHECK_PERIOD_S


class HealthChecks:
    """When Serve last asked. Its controller may be away too: then nothing but a Watch ends."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._asked_s = now_s()

    def seen(self) -> None:
        """Serve asks."""
        self._asked_s = self._now_s()

    @property
    def have_ceased(self) -> bool:
        """Whether it has not asked for long."""
        return self._now_s() - self._asked_s > SILENT_AFTER_S
