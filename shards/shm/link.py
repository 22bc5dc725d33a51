"""The shard's end of a link through shared memory, beside the stream that proves it is alive."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import torch

from galerne.errors import EpochRetiredError, GalerneError, HelloRefusedError, ProtocolError
from galerne.frame import FrameHeader
from galerne.hello import Hello
from shards.jobs import AnswerLink, Job
from shards.shm.frames import read_request, write_reply
from shards.shm.memory import open_shared
from shards.shm.rings import Bell, RingReader, RingWriter, ring_offsets
from shards.times import NO_TIMES, ShardTimes

logger = logging.getLogger(__name__)


class SharedLink:
    """Rings of one gateway. Implements ``AnswerLink``; used by the compute thread."""

    def __init__(
        self,
        hello: Hello,
        epochs: AbstractSet[int],
        stream: AnswerLink,
        on_broken: Callable[[ProtocolError], None],
    ) -> None:
        """Map what the hello offers.

        Args:
            hello: The gateway's.
            epochs: Those that are served.
            stream: Takes what the ring does not: refusals, and answers that find no room.
            on_broken: Called once, on the compute thread, if the gateway writes nonsense.

        Raises:
            ProtocolError: There is no offer, or it cannot be reached from here.
        """
        if hello.rings is None or hello.bell is None:
            raise ProtocolError("no shared memory is offered")
        try:
            memory, self.bell = open_shared(hello.rings), Bell(open_shared(hello.bell))
            capacity, requests, replies = ring_offsets(memory)
            self.requests = RingReader(memory, requests, capacity)
            self.replies = RingWriter(memory, replies, capacity)
        except (OSError, ValueError) as error:
            raise ProtocolError(str(error)) from error
        self._incarnation = hello.incarnation
        self.epochs = epochs
        self._stream = stream
        self._on_broken = on_broken
        self.is_broken = False

    def take(self) -> list[Job]:
        """The frames that have come."""
        jobs: list[Job] = []
        try:
            while not self.is_broken and (at := self.requests.next()) is not None:
                header, rows, age_s = read_request(self.requests, at, self._incarnation)
                if header.epoch in self.epochs:
                    jobs.append(Job(header, rows, self, time.monotonic() - age_s))
                else:
                    self.refuse(header, wrong_epoch(self.epochs, header.epoch))
        except Exception as error:  # border of the thread: no peer may end it
            if not isinstance(error, ProtocolError):
                logger.exception("shared_link_failed")
            self.is_broken = True
            self._on_broken(ProtocolError(str(error)))
        return jobs

    def free(self) -> None:
        """Those that were taken are computed."""
        self.requests.free()

    def answer(
        self, request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
    ) -> None:
        """See ``AnswerLink``."""
        if write_reply(self.replies, request, rows.contiguous(), times):
            self.bell.ring()
        else:
            self._stream.answer(request, rows, times)

    def refuse(self, request: FrameHeader, error: GalerneError) -> None:
        """See ``AnswerLink``."""
        self._stream.refuse(request, error)


def wrong_epoch(served: AbstractSet[int], asked: int) -> ProtocolError:
    """Why a frame of an epoch that is not served is refused."""
    if asked < min(served, default=0):
        return EpochRetiredError(asked)
    return HelloRefusedError("epoch", ",".join(map(str, sorted(served))), str(asked))
