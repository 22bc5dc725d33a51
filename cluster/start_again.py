"""When a part whose start has failed is started again. Pure, but for the clock that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_S, _MOST_S = 5.0, 60.0


class StartAgain:
    """Pauses that grow with every failure of a part: mostly it fails for the same reason."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._failed: dict[str, tuple[int, float]] = {}  # how often, and when it may start again

    def failed(self, part: str) -> float:
        """Note a failure; the seconds until it may start again."""
        number = self._failed.get(part, (0, 0.0))[0] + 1
        pause_s = min(_FIRST_S * 2.0 ** min(number - 1, 10), _MOST_S)
        self._failed[part] = number, self._now_s() + pause_s
        return pause_s

    def may(self, part: str) -> bool:
        """Whether it may start now."""
        return self._now_s() >= self._failed.get(part, (0, 0.0))[1]

    def forget(self, part: str) -> None:
        """It has started, or is wanted no longer."""
        self._failed.pop(part, None)
