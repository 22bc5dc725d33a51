"""Ctrl-C and SIGTERM: noted while nothing may be interrupted, raised otherwise."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Shutdown:
    """Turns signals of the main thread into an orderly end.

    ``KeyboardInterrupt`` is raised where work may be interrupted (loading, waiting for actors). In
    ``deferred`` blocks and in ``wait`` the signal is noted only.
    """

    def __init__(self) -> None:
        # A SimpleQueue may be put to from a signal handler; an Event could deadlock there.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._depth = 0
        self.is_requested = False

    def install(self) -> None:
        """Take both signals. Ray takes SIGTERM in ``ray.init``; ``deferred`` takes it back.

        Also where a shell has started us in the background with SIGINT ignored.
        """
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def request(self) -> None:
        """Ask for the end; from any thread."""
        self.is_requested = True
        self._wakeups.put(None)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that no signal interrupts; a signal that came is raised at its end.

        Raises:
            KeyboardInterrupt: At the end of the outermost block.
        """
        with self._noting():
            yield
        if self.is_requested and self._depth == 0:
            raise KeyboardInterrupt

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the end is asked for; whether it was."""
        with self._noting(), contextlib.suppress(queue.Empty):
            if not self.is_requested:
                self._wakeups.get(timeout=timeout_s)
        return self.is_requested

    def ignore(self) -> None:
        """Hear no more signals: the clean-up has begun."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self.install()
            self._depth -= 1

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
        if self._depth == 0:
            raise KeyboardInterrupt
