"""Accounts of keys that all frontends of one host share: files that each of them maps.

A frontend that dies takes with it what it ran: it has held a lock, which the kernel lets go of with
the process, and what it had counted is no longer added. Linux only (open file description locks,
fcntl(2)); times are of the host's monotonic clock.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from galerne.errors import ConfigError
from router.api.key_limits import Budget, Cells

logger = logging.getLogger(__name__)

MAX_MEMBERS = 64
_SUFFIX = ".account"
_BUDGET_CELLS = 3  # of 8 bytes; two budgets, then one count for each member
_FILE_BYTES = 8 * (2 * _BUDGET_CELLS + MAX_MEMBERS)
_LOCK_LATE_S = 0.2  # held for microseconds: whoever was stopped in them is not waited for
_FLOCK = "@hhqqi4x"  # type, whence, start, length, pid


class SharedAccounts:
    """One frontend's access to them. For one thread."""

    def __init__(self, directory: Path) -> None:
        """Take part; the directory is made for its owner alone.

        Raises:
            ConfigError: It cannot be used, belongs to somebody else, or is full.
        """
        self._directory = directory
        try:
            self._inside = _open_private(directory)
            self._members = self._open("members")
        except OSError as error:
            raise ConfigError("key_accounts", directory, str(error)) from error
        self._own = self._claim()
        self._mapped: dict[str, _SharedCells] = {}
        for name in os.listdir(self._inside):
            if name.endswith(_SUFFIX):  # of one who had this number, and died
                self._map(name).clear()

    def cells(self, owner: bytes) -> Cells:
        """The account of one client, see ``ApiKeys.owner``."""
        return self._map(f"{owner.hex()}{_SUFFIX}")

    def close(self) -> None:
        """Take part no more; what still runs here is no longer counted."""
        os.close(self._members)
        os.close(self._inside)

    def _claim(self) -> int:
        for number in range(MAX_MEMBERS):
            if _try_lock(self._members, number):
                return number
        raise ConfigError("key_accounts", self._directory, f"{MAX_MEMBERS} frontends use it")

    def _is_alive(self, member: int) -> bool:
        return member == self._own or _is_locked(self._members, member)

    def _open(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self._inside)

    def _map(self, name: str) -> _SharedCells:
        if name not in self._mapped:
            file = self._open(name)
            os.ftruncate(file, _FILE_BYTES)  # zeros, where it is new
            self._mapped[name] = _SharedCells(file, self._own, self._is_alive)
        return self._mapped[name]


class _SharedCells(Cells):
    """One account in a file."""

    def __init__(self, file: int, own: int, is_alive: Callable[[int], bool]) -> None:
        self._file, self._own, self._is_alive = file, own, is_alive
        self._memory = mmap.mmap(file, _FILE_BYTES)
        cells = memoryview(self._memory)[: 16 * _BUDGET_CELLS].cast("d")
        self.requests = Budget(cells[:_BUDGET_CELLS])
        self.tokens = Budget(cells[_BUDGET_CELLS:])
        self._running = memoryview(self._memory)[16 * _BUDGET_CELLS :].cast("q")

    @property
    def num_running(self) -> int:
        return sum(
            num for member, num in enumerate(self._running) if num and self._is_alive(member)
        )

    def add_running(self, num: int) -> None:
        self._running[self._own] += num  # nobody else writes it

    def clear(self) -> None:
        """Nothing runs here."""
        self._running[self._own] = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        late_s = time.monotonic() + _LOCK_LATE_S
        while not _try_lock(self._file, 0):
            if time.monotonic() > late_s:
                logger.warning("key_account_lock_late")
                break
            os.sched_yield()
        try:
            yield
        finally:
            _lock(self._file, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0)


def _open_private(directory: Path) -> int:
    """Open, so that it stays this one: where others may write, they may put another there."""
    directory.mkdir(mode=0o700, exist_ok=True)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    found = os.fstat(opened)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(opened)
        raise PermissionError(errno.EPERM, "must be a directory of our own, with mode 0700")
    return opened


def _try_lock(file: int, byte: int) -> bool:
    try:
        _lock(file, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, byte)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_locked(file: int, byte: int) -> bool:
    """Whether another open of the file has locked this byte."""
    found = _lock(file, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte)
    kind: int = struct.unpack(_FLOCK, found)[0]
    return kind != fcntl.F_UNLCK


def _lock(file: int, command: int, kind: int, byte: int) -> bytes:
    return fcntl.fcntl(file, command, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
