"""Rings and bells of ``native/ring.cpp`` on shared memory.

A ring has one writer and one reader, in two processes. A bell is a process' own: peers ring it when
they have written something for it, and it sleeps on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np

from galerne.errors import ProtocolError
from galerne.hello import SharedFile
from shards.adapters.tokens import TokenAdapters
from shards.kernels.native.families import open_library
from shards.shm.memory import PAGE_BYTES, OwnedMemory, SharedMemory
from shards.wire import Ints

BELL_BYTES: Final = 64
ALIGNMENT: Final = 64  # of rings and records
_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_ARGUMENTS: Final[dict[str, Sequence[type]]] = {
    "galerne_ring_header_bytes": (),
    "galerne_ring_send": (
        *(_POINTER, ctypes.c_char_p, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE),
        *(_POINTER, _POINTER, _SIZE, _SIZE, _POINTER),
    ),
    "galerne_ring_next": (_POINTER,),
    "galerne_ring_free": (_POINTER,),
    "galerne_bell_ring": (_POINTER, _INT),
    "galerne_serve_rings": (_POINTER, ctypes.c_uint32, _SIZE),
    "galerne_exchange_send": (_POINTER,),
    "galerne_exchange_collect": (_POINTER, _POINTER, ctypes.c_uint32, _SIZE),
    "galerne_rings_wait": (_POINTER, ctypes.c_uint32, ctypes.c_uint32, _SIZE, _POINTER, _INT),
}


@cache
def ring_library() -> ctypes.CDLL | None:
    """The native library; None where it was not built."""
    library = open_library()
    if library is not None:
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        for name in ("galerne_ring_header_bytes", "galerne_ring_next"):
            getattr(library, name).restype = _SIZE
        library.galerne_ring_free.restype = library.galerne_bell_ring.restype = None
    return library


def ring_bytes(capacity: int) -> int:
    """Shared memory that a ring of this capacity takes."""
    return int(_library().galerne_ring_header_bytes()) + capacity


def ring_offsets(memory: SharedMemory) -> tuple[int, int, int]:
    """A link's memory: capacity of its two rings, where requests and where replies start."""
    half = len(memory) // 2 // ALIGNMENT * ALIGNMENT
    return half - ring_bytes(0), 0, half


class _End:
    """One end of the ring that lies ``offset`` bytes into the content of ``memory``."""

    def __init__(self, memory: SharedMemory, offset: int, capacity: int) -> None:
        if offset < 0 or offset % ALIGNMENT or capacity < ALIGNMENT or capacity % ALIGNMENT:
            raise ValueError(f"a ring of {capacity} bytes at {offset}")
        if offset + ring_bytes(capacity) > len(memory):
            raise ValueError(f"a ring of {capacity} bytes at {offset} of {len(memory)}")
        self.library = _library()
        self.memory = memory
        self.start = PAGE_BYTES + offset  # in the map
        # As ``End`` of native/ring.h: counters, capacity, position, bytes found, origin.
        self._end = np.array([memory.address + self.start, capacity, 0, 0, 0], np.int64)
        self.address: int = self._end.ctypes.data


class RingWriter(_End):
    """Writes records."""

    def send(
        self,
        record: bytes,
        data: int,
        num_data: int,
        row_bytes: int,
        indices: tuple[Ints, Ints, Ints] | None = None,
        data_rows: Ints | None = None,
        keys: TokenAdapters | None = None,
    ) -> bool:
        """Write one record; False if there is no room for it now, or it is over half the ring.

        Args:
            record: The record's header, 64 bytes; its size and kind are filled in.
            data: Address of rows.
            num_data: Number of rows to write.
            row_bytes: Bytes of each.
            indices: ``[G]``, ``[G]`` and ``[R]``, contiguous.
            data_rows: ``[num_data]`` which rows; None: the first ones.
            keys: ``[num_data]``, contiguous, written behind the rows.
        """
        groups, counts, rows = (None, None, None) if indices is None else indices
        return bool(
            self.library.galerne_ring_send(
                *(self.address, record),
                None if groups is None else groups.ctypes.data,
                None if counts is None else counts.ctypes.data,
                0 if groups is None else len(groups),
                None if rows is None else rows.ctypes.data,
                0 if rows is None else len(rows),
                *(data, None if data_rows is None else data_rows.ctypes.data),
                *(num_data, row_bytes, None if keys is None else keys.ctypes.data),
            )
        )


class RingReader(_End):
    """Reads records in order."""

    def next(self) -> tuple[int, int] | None:
        """Where in the map the next record starts and ends; None if there is none.

        Raises:
            ProtocolError: The writer has written nonsense.
        """
        found: int = self.library.galerne_ring_next(self.address)
        if found >= 0:
            start = self.start + found
            return start, start + int(self._end[3])
        if found == -1:
            return None
        raise ProtocolError("shared memory: a record that does not fit its ring")

    def free(self) -> None:
        """What was read may be written over."""
        self.library.galerne_ring_free(self.address)


class Bell:
    """Sleeps until it is rung."""

    def __init__(self, memory: SharedMemory) -> None:
        """The bell at the start of ``memory``."""
        self._library = _library()
        self.address: int = memory.address + PAGE_BYTES
        self._count = np.frombuffer(memory.map, np.uint32, 1, PAGE_BYTES)
        self.set_readers(())

    def set_readers(self, readers: Sequence[RingReader]) -> None:
        """The rings that ``wait`` looks into."""
        self._readers = readers  # they hold the memory
        self._ends = (ctypes.c_void_p * len(readers))(*(r.address for r in readers))

    @property
    def count(self) -> int:
        """Changes with every ring. Read it before looking for what there is to do."""
        return int(self._count[0])

    def ring(self, *, is_urgent: bool = False) -> None:
        """Wake who sleeps on it, if this is a ring that is waited for; an urgent one always is."""
        self._library.galerne_bell_ring(self.address, is_urgent)

    def wait(self, seen: int, timeout_s: float, num_rings: int = 1) -> RingReader | None:
        """The first reader with a record.

        If there is none, sleeps until the bell was rung ``num_rings`` times, or urgently once,
        since its count was ``seen``, or the time is over. None: there is still no record.
        """
        readers, ends = self._readers, self._ends  # theirs too if others are set meanwhile
        index: int = self._library.galerne_rings_wait(
            *(self.address, seen, num_rings, max(int(timeout_s * 1e9), 0), ends, len(readers))
        )
        return None if index < 0 else readers[index]


class OwnBell(Bell):
    """The bell of this process, which peers can open."""

    def __init__(self) -> None:
        """Create it.

        Raises:
            OSError: There is no shared memory, or no native library.
        """
        self._memory = OwnedMemory(BELL_BYTES)
        self.file: SharedFile = self._memory.file
        super().__init__(self._memory)

    def withdraw(self) -> None:
        """No new peer can ring it."""
        self._memory.withdraw()


def _library() -> ctypes.CDLL:
    library = ring_library()
    if library is None:
        raise OSError("shared memory needs the native library, which was not built")
    return library
