"""All that a process does with NCCL: one thread that calls it, and one that watches over it.

Calls that cannot be ended by a deadline, to join a communicator and to abort one, have threads of
their own. All calls for turns come from the issuing thread, in the order of the announcements.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from galerne.clock import Clock, MonotonicClock
from galerne.errors import ConfigError
from shards.nccl.channel import Channel
from shards.nccl.helpers import HelperThreads
from shards.nccl.port import NcclFaultError, NcclPort

logger = logging.getLogger(__name__)

ISSUER_NAME = "nccl-issuer"
JOIN_NAME = "nccl-join"
_POLL_S = 50e-6  # between looks at the device, while something is away
_WATCH_S = 0.25  # between looks of the watchdog, at most
_LOOKS = 5  # in the shortest time-out

OnJoined = Callable[[Channel | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclConfig:
    """Deadlines and limits."""

    start_timeout_s: float = 30.0  # of CUDA and cupy, while others wait; then those go by gRPC
    join_timeout_s: float = 10.0  # until both have joined; then the link goes by gRPC
    turn_timeout_s: float = 5.0  # of a turn, with what the shard computes; as an exchange's longest
    max_leaks: int = 3  # threads that do not come back; with more, the process should end

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "join_timeout_s", "turn_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"nccl.{name}", getattr(self, name), "must be above 0 seconds")


class NcclRuntime:
    """Of one process."""

    def __init__(
        self, port: NcclPort, config: NcclConfig | None = None, clock: Clock | None = None
    ) -> None:
        """Start its threads."""
        self.port = port
        self.config = config or NcclConfig()
        self._clock = clock or MonotonicClock()
        self._helpers = HelperThreads(self._clock)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._channels: dict[Channel, Callable[[str], None]] = {}  # and who is told of the end
        self._has_joined = False  # ever
        self._is_stopping = False
        self._look = threading.Event()
        self._threads = [
            threading.Thread(target=self._issue, name=ISSUER_NAME, daemon=True),
            threading.Thread(target=self._watch, name="nccl-watchdog", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, what: Callable[[], None]) -> None:
        """Call something on the issuing thread. From any thread; order is kept."""
        self._commands.put(what)

    def join(self, unique_id: bytes, rank: int, on_joined: OnJoined) -> None:
        """Join a communicator of two; blocks nobody.

        ``on_joined`` is called once, on some thread: with the channel; or with None and why not,
        after ``join_timeout_s`` at the latest.
        """
        decided = threading.Lock()  # taken once, by who is first: the end, or the deadline

        def late() -> None:
            if decided.acquire(blocking=False):
                problem = f"the peer did not join in {self.config.join_timeout_s:g} s"
                on_joined(None, problem)

        def work() -> None:
            channel, problem = self._joined(unique_id, rank)
            if decided.acquire(blocking=False):
                on_joined(channel, problem)
            elif channel is not None:  # nobody waits for it any more
                _let_go(channel)

        self._helpers.start(JOIN_NAME, work, self.config.join_timeout_s, late)
        self._look.set()

    def _joined(self, unique_id: bytes, rank: int) -> tuple[Channel | None, str]:
        let_go: Callable[[], None] | None = None
        try:
            communicator = self.port.join(2, unique_id, rank)
            let_go = communicator.abort
            channel = Channel(self.port, communicator, rank, self._clock)
            let_go = partial(_let_go, channel)
            channel.warm_up(self.config.join_timeout_s)
        except Exception as error:  # border of the thread, and somebody waits for its word
            if not isinstance(error, NcclFaultError):
                logger.exception("nccl_join_failed")
            if let_go is not None:
                self._call(let_go)
            return None, _said(error)
        self._has_joined = True
        return channel, ""

    def serve(self, channel: Channel, on_given_up: Callable[[str], None]) -> None:
        """Look after a channel: tell of turns that are over, and of its end, once, with a reason.

        ``on_given_up`` is called on some thread, also at ``give_up``.
        """
        with self._lock:  # of ``give_up``, which has noted the reason before it takes it
            ended = channel.reason
            if not ended:
                self._channels = {**self._channels, channel: on_given_up}
        self._look.set()
        if ended:
            on_given_up(ended)

    def give_up(self, channel: Channel, reason: str) -> None:
        """Nothing more goes by a channel. From any thread; blocks nobody."""
        if not channel.give_up(reason):
            return
        with self._lock:
            told = self._channels.get(channel)
            self._channels = {c: t for c, t in self._channels.items() if c is not channel}
        timeout_s = self.config.turn_timeout_s
        abort = partial(channel.abort, timeout_s)
        self._helpers.start("nccl-abort", abort, 2 * timeout_s, lambda: None)
        self._look.set()
        if told is not None:
            told(reason)

    @contextmanager
    def calling_for(self, channel: Channel) -> Iterator[None]:
        """Around a turn that the peer knows of: if it fails, so does the channel.

        For the next turn would meet this one at the peer, and bring the rows of other frames.
        """
        try:
            yield
        except NcclFaultError as error:
            self.give_up(channel, str(error))
        except Exception as error:
            self.give_up(channel, _said(error))
            raise

    @property
    def num_channels(self) -> int:
        """Links by NCCL."""
        return len(self._channels)

    @property
    def num_joining(self) -> int:
        """Links that may go by NCCL soon."""
        return self._helpers.num_busy(JOIN_NAME)

    @property
    def num_leaked(self) -> int:
        """Threads that have not come back from NCCL in time."""
        return self._helpers.num_leaked

    @property
    def may_join(self) -> bool:
        """Whether threads are left to be risked on one more communicator."""
        return self.num_leaked <= self.config.max_leaks

    @property
    def is_healthy(self) -> bool:
        """Whether the process may go on: not with too many stuck threads, nor without its own.

        Where nobody has ever joined, NCCL does not work here, nor would it in a new process: then
        links go by gRPC, and the threads stay.
        """
        are_alive = all(thread.is_alive() for thread in self._threads)
        return are_alive and (self.may_join or not self._has_joined)

    def stop(self) -> None:
        """End the threads and all channels."""
        for channel in list(self._channels):
            self.give_up(channel, "the process ends")
        self._is_stopping = True
        self._look.set()
        self._commands.put(None)

    def _issue(self) -> None:
        while True:
            is_away = any(channel.num_open for channel in self._channels)
            try:
                command = self._commands.get(timeout=_POLL_S if is_away else None)
            except queue.Empty:
                pass
            else:
                if command is None:
                    return
                self._call(command)
            for channel in list(self._channels):
                self._call(partial(self._poll, channel))

    def _poll(self, channel: Channel) -> None:
        with self.calling_for(channel):
            channel.poll()

    def _call(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception:  # border of the thread: no link may end the others
            logger.exception("nccl_command_failed")

    def _watch(self) -> None:
        shortest_s = min(self.config.turn_timeout_s, self.config.join_timeout_s)
        interval_s = min(shortest_s / _LOOKS, _WATCH_S)
        while not self._is_stopping:
            self._look.clear()
            for channel in list(self._channels):
                reason = channel.overdue(self.config.turn_timeout_s) or channel.check()
                if reason:
                    self._call(partial(self.give_up, channel, reason))
            self._call(self._helpers.look)
            is_busy = bool(self._channels) or self._helpers.num_away > 0
            self._look.wait(interval_s if is_busy else None)


def _let_go(channel: Channel) -> None:
    """Of one that nobody knows yet, or waits for any more."""
    channel.give_up("not joined in time, or not in order")
    channel.abort(0.0)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, NcclFaultError) else f"{type(error).__name__}: {error}"
