"""What the compute thread sleeps on: where there is shared memory, peers can ring it too."""

from __future__ import annotations

import threading
from typing import Protocol

from galerne.hello import SharedFile
from shards.shm.rings import OwnBell


class WorkerBell(Protocol):
    """Counts its rings, so that none is missed between a look and a sleep."""

    @property
    def file(self) -> SharedFile | None:
        """For peers; None: they cannot ring it."""
        ...

    @property
    def count(self) -> int:
        """Changes with every ring."""
        ...

    def ring(self, *, is_urgent: bool = False) -> None:
        """Wake the sleeper; an urgent ring ends the native loop over rings too."""
        ...

    def wait(self, seen: int, timeout_s: float) -> object:
        """Return when the count is no longer ``seen``, or the time is over."""
        ...

    def withdraw(self) -> None:
        """No new peer can ring it."""
        ...


class ThreadBell:
    """A bell within the process."""

    def __init__(self) -> None:
        self.file: SharedFile | None = None
        self.count = 0
        self._changed = threading.Condition()

    def ring(self, *, is_urgent: bool = False) -> None:
        """See ``WorkerBell``."""
        del is_urgent
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> object:
        """See ``WorkerBell``."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count != seen, timeout_s)

    def withdraw(self) -> None:
        """See ``WorkerBell``."""


def create_bell() -> WorkerBell:
    """One that peers can ring; without native library or shared memory, one for threads."""
    try:
        return OwnBell()
    except OSError:
        return ThreadBell()
