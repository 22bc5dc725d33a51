"""NCCL by cupy, memory and streams as torch knows them. The only file that calls cupy."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from shards.nccl.availability import NcclUnavailableError, nccl_environment, nccl_problem
from shards.nccl.port import UNIQUE_ID_BYTES, Event, NcclFaultError, Stream


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"NCCL's result {error}, for which cupy has no name"
    return f"{type(error).__name__}: {error}"


class _Event:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    @property
    def is_done(self) -> bool:
        """See ``Event``."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]


class _Stream:
    """A stream of its own: torch's come from a pool of 32, which links would share."""

    def __init__(self, made: Any, device: torch.device) -> None:  # noqa: ANN401 - cupy has no types
        self._made = made  # ends with its last reference
        self.address = int(made.ptr)
        self._stream = torch.cuda.ExternalStream(self.address, device=device)  # type: ignore[no-untyped-call]

    def wait(self, event: Event) -> None:
        """See ``Stream``."""
        assert isinstance(event, _Event)
        self._stream.wait_event(event.event)

    def record(self) -> Event:
        """See ``Stream``."""
        return _Event(self._stream.record_event())


class _Communicator:
    def __init__(self, port: CupyPort, made: Any) -> None:  # noqa: ANN401
        self._port, self._made = port, made

    def send(self, address: int, num_bytes: int, peer: int, stream: Stream) -> None:
        """See ``Communicator``. Rows are bytes to NCCL, whatever their dtype."""
        assert isinstance(stream, _Stream)
        with self._port.calling():
            self._made.send(address, num_bytes, self._port.uint8, peer, stream.address)

    def receive(self, address: int, num_bytes: int, peer: int, stream: Stream) -> None:
        """See ``Communicator``."""
        assert isinstance(stream, _Stream)
        with self._port.calling():
            self._made.recv(address, num_bytes, self._port.uint8, peer, stream.address)

    def check(self) -> None:
        """See ``Communicator``."""
        with self._port.calling():
            self._made.check_async_error()

    def abort(self) -> None:
        """See ``Communicator``. After it the end of the object calls NCCL no more."""
        with self._port.calling():
            self._made.abort()


class CupyPort:
    """Implements ``NcclPort``."""

    def __init__(self, index: int, *, trusts_network: bool) -> None:
        """On the GPU of this number.

        Raises:
            NcclUnavailableError: There is no cupy, no NCCL or no GPU.
        """
        problem = nccl_problem()
        if problem:
            raise NcclUnavailableError(problem)
        self._cupy: Any = importlib.import_module("cupy")
        self._nccl: Any = importlib.import_module("cupy.cuda.nccl")
        self.device = torch.device("cuda", index)
        self.uint8: int = self._nccl.NCCL_UINT8
        count = torch.cuda.get_device_properties(self.device).multi_processor_count
        missing = nccl_environment(count, trusts_network=trusts_network, given=os.environ)
        os.environ.update(missing)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """On our device, with errors of ours.

        Any of them, also of CUDA: a device that has failed once fails every call.
        """
        try:
            with ExitStack() as entered:
                # Both keep the current device of a thread, each in a CUDA runtime of its own.
                entered.enter_context(torch.cuda.device(self.device))
                entered.enter_context(self._cupy.cuda.Device(self.device.index))
                yield
        except Exception as error:
            raise NcclFaultError(_said(error)) from error

    def unique_id(self) -> bytes:
        """See ``NcclPort``."""
        with self.calling():
            return bytes(self._nccl.get_unique_id())

    def join(self, size: int, unique_id: bytes, rank: int) -> _Communicator:
        """See ``NcclPort``."""
        if len(unique_id) != UNIQUE_ID_BYTES:
            raise NcclFaultError(f"an id of {len(unique_id)} bytes, {UNIQUE_ID_BYTES} expected")
        with self.calling():
            return _Communicator(self, self._nccl.NcclCommunicator(size, unique_id, rank))

    @contextmanager
    def group(self) -> Iterator[None]:
        """See ``NcclPort``."""
        with self.calling():
            self._nccl.groupStart()
        try:
            yield
        finally:  # else the thread's next calls would wait in this one
            with self.calling():
                self._nccl.groupEnd()

    def stream(self) -> _Stream:
        """See ``NcclPort``."""
        with self.calling():
            return _Stream(self._cupy.cuda.Stream(non_blocking=True), self.device)

    def fence(self) -> _Event:
        """See ``NcclPort``."""
        return _Event(torch.cuda.current_stream(self.device).record_event())

    def empty(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """See ``NcclPort``."""
        return torch.empty(shape, dtype=dtype, device=self.device)


def open_port(*, trusts_network: bool) -> CupyPort:
    """On the GPU that torch takes in this process; Ray gives each process its own.

    Raises:
        NcclUnavailableError: There is no cupy, no NCCL or no GPU.
    """
    problem = nccl_problem()
    if problem:
        raise NcclUnavailableError(problem)
    return CupyPort(torch.cuda.current_device(), trusts_network=trusts_network)
