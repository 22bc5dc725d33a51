"""One end of a link's communicator: turns are put on two streams, and are over in their order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from galerne.clock import Clock
from shards.nccl.port import Communicator, Event, NcclFaultError, NcclPort

_POLL_S = 0.001


class _Open(NamedTuple):
    """A turn that was called for."""

    ends: tuple[Event, Event]  # of its streams
    on_done: Callable[[], None]
    held: Sequence[torch.Tensor]  # memory that the device reads and writes


class Channel:
    """Used by the issuing thread, save where it says otherwise."""

    def __init__(self, port: NcclPort, communicator: Communicator, rank: int, clock: Clock) -> None:
        """``rank``: 0 or 1; the peer has the other."""
        self._port, self._communicator, self._peer = port, communicator, 1 - rank
        self._clock = clock
        self._out, self._in = port.stream(), port.stream()
        self._open: deque[_Open] = deque()
        self._lock = threading.Lock()  # of what follows, for a moment only
        self._reason = ""
        self._in_call_since_s: float | None = None
        self._oldest_since_s: float | None = None  # since when the oldest turn is the oldest
        self._is_let_go = False

    @property
    def reason(self) -> str:
        """Why it was given up; empty: it was not. From any thread."""
        return self._reason

    def post(
        self,
        sends: Sequence[torch.Tensor],
        receives: Sequence[torch.Tensor],
        fences: Sequence[Event],
        on_done: Callable[[], None],
    ) -> None:
        """Call for a turn: contiguous tensors of the port's device, as the peer calls for them.

        They must stay as they are until it is over. Rows travel as bytes, from where they are.

        Args:
            sends: In the order in which the peer receives them.
            receives: In the order in which the peer sends them.
            fences: What must have run on the device before: who makes and who frees this memory.
            on_done: Called by ``poll`` when it is over; never, once the channel is given up.

        Raises:
            NcclFaultError: It must be given up, or has been.
        """
        with self._calling():
            for stream in (self._out, self._in):
                for fence in fences:
                    stream.wait(fence)
            with self._port.group():  # one operation: neither direction waits for the other
                for rows in sends:
                    self._communicator.send(rows.data_ptr(), rows.nbytes, self._peer, self._out)
                for rows in receives:
                    self._communicator.receive(rows.data_ptr(), rows.nbytes, self._peer, self._in)
            ends = self._out.record(), self._in.record()
        with self._lock:
            self._open.append(_Open(ends, on_done, (*sends, *receives)))
            if self._oldest_since_s is None:
                self._oldest_since_s = self._clock.now_s()

    def poll(self) -> None:
        """Tell of turns that are over."""
        while not self._reason and self._open and all(e.is_done for e in self._open[0].ends):
            with self._lock:
                if self._reason:  # the end of an aborted turn looks like any other
                    return
                on_done = self._open.popleft().on_done
                self._oldest_since_s = self._clock.now_s() if self._open else None
            on_done()

    @property
    def num_open(self) -> int:
        """Turns that are not over."""
        return 0 if self._reason else len(self._open)

    def warm_up(self, timeout_s: float) -> None:
        """Send a byte and receive one, so that no later call waits until the peer connects.

        For then the issuing threads of several processes could wait in a ring. Called by the thread
        that has joined, before any other knows of this.

        Raises:
            NcclFaultError: It failed, or took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        is_over = False

        def end() -> None:
            nonlocal is_over
            is_over = True

        there, back = (self._port.empty((1, 1), torch.uint8) for _ in range(2))
        self.post([there], [back], [self._port.fence()], end)
        while not is_over:
            if time.monotonic() > deadline_s:
                raise NcclFaultError("the peer does not exchange a byte")
            time.sleep(_POLL_S)
            self.poll()

    def overdue(self, timeout_s: float) -> str:
        """What takes longer than it may; empty: nothing. By the watchdog."""
        now_s = self._clock.now_s()
        with self._lock:
            since = {"a call": self._in_call_since_s, "a turn": self._oldest_since_s}
        late = [what for what, s in since.items() if s is not None and now_s - s > timeout_s]
        return f"{late[0]} was not over after {timeout_s:g} s" if late else ""

    def check(self) -> str:
        """What NCCL says went wrong meanwhile; empty: nothing. By the watchdog."""
        with self._lock:  # not while it is aborted
            if self._reason or self._in_call_since_s is not None:
                return ""
            try:
                self._communicator.check()
            except NcclFaultError as error:
                return str(error)
            return ""

    def give_up(self, reason: str) -> bool:
        """No further call of NCCL, no further end of a turn. From any thread; whether it is new."""
        with self._lock:
            is_new = not self._reason
            self._reason = self._reason or reason or "given up"
            return is_new

    def abort(self, patience_s: float) -> None:
        """Let go of the peer, once, after ``give_up``; blocks. From any thread.

        A call that another thread is in gets ``patience_s`` to end by itself: only a stuck one may
        be pulled away from under it.
        """
        deadline_s = time.monotonic() + patience_s
        while self._in_call_since_s is not None and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        with self._lock:
            if self._is_let_go:
                return
            self._is_let_go = True
        try:
            self._communicator.abort()
        finally:
            self._open.clear()  # until now the device may have written there

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._lock:
            if self._reason:
                raise NcclFaultError(self._reason)
            self._in_call_since_s = self._clock.now_s()
        try:
            yield
        finally:
            with self._lock:
                self._in_call_since_s = None
