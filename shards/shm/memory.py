"""Memory that a process shares with a peer on the same host: a file that has no name.

The peer opens it as ``/proc/<pid>/fd/<fd>``, which works for the same user in the same PID
namespace only, and checks the 16 random bytes at its start, so that it is the file that was meant.
Nothing has a name in a file system, so nothing is left behind by a process that is killed, and the
size of /dev/shm does not matter.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import ProtocolError
from galerne.hello import SharedFile

PAGE_BYTES = 4096  # the first page: the file's id
_ID_BYTES = 16
_NAME = "galerne"
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0)


class SharedMemory:
    """A mapping, unmapped with its last reference."""

    def __init__(self, fd: int, num_bytes: int) -> None:
        """Map an open file; see ``OwnedMemory`` and ``open_shared``.

        By torch: Python's own mmap would keep a second descriptor open.
        """
        path = f"/proc/self/fd/{fd}"
        try:
            tensor = torch.from_file(path, shared=True, size=num_bytes, dtype=torch.uint8)
        except RuntimeError as error:
            raise OSError(f"cannot map {num_bytes} bytes: {error}") from error
        self.map: npt.NDArray[np.uint8] = tensor.numpy()
        self.address: int = self.map.ctypes.data

    def __len__(self) -> int:
        """Bytes of content."""
        return len(self.map) - PAGE_BYTES


class OwnedMemory(SharedMemory):
    """Memory that this process has made; peers can open it until ``withdraw``."""

    def __init__(self, num_bytes: int) -> None:
        """Create ``num_bytes`` of zeros, and the page of the id.

        Raises:
            OSError: There is no memory for it, or no such thing on this system.
        """
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd_create")
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # All of it now: a page that cannot be had later would kill who touches it.
            os.posix_fallocate(fd, 0, PAGE_BYTES + num_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            super().__init__(fd, PAGE_BYTES + num_bytes)
        except BaseException:
            os.close(fd)
            raise
        file_id = secrets.token_bytes(_ID_BYTES)
        self.map[:_ID_BYTES] = list(file_id)
        self._close = weakref.finalize(self, os.close, fd)
        self.file = SharedFile(
            pid=os.getpid(), fd=fd, num_bytes=PAGE_BYTES + num_bytes, id=file_id.hex()
        )

    def withdraw(self) -> None:
        """No peer can open it any more; who has it keeps it."""
        self._close()


def _seals(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:  # a file with a name
        return 0


def open_shared(file: SharedFile) -> SharedMemory:
    """Map a peer's memory.

    Raises:
        ProtocolError: It cannot be reached from here, or is not what it was said to be.
    """
    try:
        fd = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ProtocolError(f"shared memory of process {file.pid}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        # Only memory that nobody can shrink: a page that went away would kill who touches it.
        is_ours = found.st_uid == os.geteuid() and _seals(fd) & _SEALS == _SEALS
        if not is_ours or found.st_size != file.num_bytes or file.num_bytes < PAGE_BYTES:
            raise ProtocolError(f"shared memory of process {file.pid}: another file is there")
        if os.pread(fd, _ID_BYTES, 0).hex() != file.id:
            raise ProtocolError(f"shared memory of process {file.pid}: another id is there")
        return SharedMemory(fd, file.num_bytes)
    except OSError as error:
        raise ProtocolError(f"shared memory of process {file.pid}: {error}") from error
    finally:
        os.close(fd)
