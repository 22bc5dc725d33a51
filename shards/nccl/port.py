"""What links need of NCCL and CUDA. ``cupy_port`` has it of the real ones, tests have a stand-in.

On the device, what is put on one stream runs in turn; streams run side by side. Operations of one
communicator run in the order of their calls, whatever their streams, and each waits for its
counterpart at the peer: both ends must call for the same things in the same order.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch

UNIQUE_ID_BYTES = 128


class NcclFaultError(Exception):
    """A call of NCCL failed. The communicator can only be aborted."""


class Event(Protocol):
    """A point of a stream."""

    @property
    def is_done(self) -> bool:
        """Whether everything before it has run."""
        ...


class Stream(Protocol):
    """A queue of the device."""

    def wait(self, event: Event) -> None:
        """What follows runs after the event."""
        ...

    def record(self) -> Event:
        """The point that is reached when all that was put on it has run."""
        ...


class Communicator(Protocol):
    """One end of a communicator.

    Ended by ``abort`` alone: an orderly end (``ncclCommDestroy``) waits for the peer.
    """

    def send(self, address: int, num_bytes: int, peer: int, stream: Stream) -> None:
        """Send bytes of the device; raises NcclFaultError."""
        ...

    def receive(self, address: int, num_bytes: int, peer: int, stream: Stream) -> None:
        """Receive as many bytes as the peer sends; raises NcclFaultError."""
        ...

    def check(self) -> None:
        """Raises NcclFaultError for what went wrong since a call returned."""
        ...

    def abort(self) -> None:
        """Let go of the peer and of all that was called for; what it wrote may be half. Once.

        From any thread, also while a call of another one is stuck.
        """
        ...


class NcclPort(Protocol):
    """NCCL on the device of this process. Each thread may call it."""

    @property
    def device(self) -> torch.device:
        """Where rows lie."""
        ...

    def unique_id(self) -> bytes:
        """Of a new communicator, ``UNIQUE_ID_BYTES``; raises NcclFaultError."""
        ...

    def join(self, size: int, unique_id: bytes, rank: int) -> Communicator:
        """Blocks until all of them have joined, and cannot be ended; raises NcclFaultError."""
        ...

    def group(self) -> AbstractContextManager[None]:
        """Sends and receives within are one operation; raises NcclFaultError at its end."""
        ...

    def stream(self) -> Stream:
        """A new one, which waits for no other."""
        ...

    def fence(self) -> Event:
        """The point that is reached when what this thread has asked torch for has run."""
        ...

    def empty(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """Memory for rows, of torch's stream of this thread.

        Torch may still have work of an older tensor on it: whoever else writes there waits for a
        ``fence`` that is made after this. All threads that make, read or drop rows have the same
        stream of torch's, the device's default one, unless they wait for one another's.
        """
        ...
