"""Threads for calls of NCCL that may never return: those are counted, not waited for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from galerne.clock import Clock

logger = logging.getLogger(__name__)


class HelperThread:
    """Does one thing, with a deadline after which somebody else goes on."""

    def __init__(
        self, name: str, what: Callable[[], None], deadline_s: float, on_late: Callable[[], None]
    ) -> None:
        """``deadline_s`` by the clock of ``HelperThreads``; ``on_late`` is called then, once."""
        self._what, self.on_late = what, on_late
        self.deadline_s = deadline_s
        self.is_late = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_over = False

    @property
    def name(self) -> str:
        """What it does."""
        return self._thread.name

    @property
    def is_over(self) -> bool:
        """Whether it has come back."""
        return self._is_over

    def start(self) -> None:
        """Do it."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._what()
        except Exception:  # border of the thread
            logger.exception("nccl_helper_failed name=%s", self.name)
        finally:
            self._is_over = True


class HelperThreads:
    """Those of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._helpers: list[HelperThread] = []

    def start(
        self, name: str, what: Callable[[], None], timeout_s: float, on_late: Callable[[], None]
    ) -> None:
        """Do something that may get stuck."""
        helper = HelperThread(name, what, self._clock.now_s() + timeout_s, on_late)
        with self._lock:
            self._helpers.append(helper)
        helper.start()

    def look(self) -> None:
        """Tell of those that are late now; forget those that have come back. By the watchdog."""
        now_s = self._clock.now_s()
        with self._lock:
            self._helpers = [helper for helper in self._helpers if not helper.is_over]
            late = [h for h in self._helpers if not h.is_late and now_s > h.deadline_s]
            for helper in late:
                helper.is_late = True
        for helper in late:
            logger.warning("nccl_thread_stuck name=%s", helper.name)
            helper.on_late()

    def num_busy(self, name: str) -> int:
        """With this name, that have not come back and are not late."""
        return sum(h.name == name and not (h.is_over or h.is_late) for h in self._helpers)

    @property
    def num_away(self) -> int:
        """That have not come back."""
        return sum(not helper.is_over for helper in self._helpers)

    @property
    def num_leaked(self) -> int:
        """That are late, and may be stuck for as long as the process lives."""
        return sum(helper.is_late and not helper.is_over for helper in self._helpers)
