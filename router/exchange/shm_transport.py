"""Experts in other processes: through memory where a shard is on this host, else its gRPC stream.

Every link has its stream, which says that the shard lives, and takes what finds no room in a ring.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from galerne.errors import ProtocolError
from galerne.hello import Hello
from galerne.ids import Epoch, ShardId
from galerne.internal_tls import InternalTls
from router.exchange.grpc_link import AddressBook, LinkConfig, LinkEvent, NcclNews
from router.exchange.grpc_transport import GrpcTransport, request_rows
from router.exchange.offers import SharedUp, Way
from router.exchange.shm_call import RingCalls
from router.exchange.shm_ends import RingOffer, SharedEnds
from router.exchange.transport import (
    Answer,
    LinkDown,
    OutgoingCall,
    OutgoingFrame,
    SentCall,
    TransportEvent,
)
from shards.shm.frames import read_reply, write_request
from shards.shm.rings import OwnBell, RingReader


class ShmTransport:
    """Implements ``Transport``."""

    def __init__(
        self,
        shards: Sequence[ShardId],
        hello: Hello,
        cluster_token: str,
        book: AddressBook,
        ring_bytes: int,
        config: LinkConfig | None = None,
        tls: InternalTls | None = None,
    ) -> None:
        """Start connecting to every shard at once.

        ``ring_bytes`` for requests, and as many for replies, of every shard on this host.

        Raises:
            OSError: There is no shared memory here at all.
        """
        bell = OwnBell()
        self._bell = bell
        self._events: deque[LinkEvent] = deque()
        self._ends: dict[ShardId, SharedEnds] = {}
        self._shard_of: dict[RingReader, ShardId] = {}
        self._shards, self._epoch = tuple(shards), Epoch(hello.epoch)
        self._calls: RingCalls | None = None  # while all shards have rings
        self._is_closed = False

        def offer(_: ShardId) -> RingOffer:
            return RingOffer(bell.file, ring_bytes)

        links = (shards, hello, cluster_token, book)
        way = Way("shared memory", offer)
        self._grpc = GrpcTransport(*links, config, self._emit, way, tls)

    def send(self, frame: OutgoingFrame) -> None:
        """See ``Transport``."""
        if self._is_closed:
            return
        ends = self._ends.get(frame.shard)
        if ends is not None:
            rows = request_rows(frame, frame.source.contiguous())
            header = self._grpc.header(frame)
            if write_request(ends.requests, header, rows, frame.rows.tokens):
                ends.bell.ring()
                return
        self._grpc.send(frame)

    def send_call(self, call: OutgoingCall) -> SentCall | None:
        """See ``Transport``."""
        if self._calls is None or self._is_closed:
            return None
        return self._calls.send(call, self._has_events)

    def receive(self, timeout_s: float, num_awaited: int = 1) -> TransportEvent | None:
        """See ``Transport``."""
        end = time.monotonic() + timeout_s
        while not self._is_closed:
            seen = self._bell.count
            event = self._queued()
            if event is None:
                left = end - time.monotonic()
                reader = self._bell.wait(seen, left, num_awaited)
                event = None if reader is None else self._answer(reader)
                if reader is None and left <= 0:
                    return None
            if event is not None:
                return event
        return None

    def close(self) -> None:
        """See ``Transport``."""
        self._is_closed = True
        self._grpc.close()
        self._events = deque()  # some may hold memory
        self._ends.clear()
        self._look_into_rings()
        self._bell.ring(is_urgent=True)  # whoever still sleeps on it
        self._bell.withdraw()

    def _emit(self, event: LinkEvent) -> None:
        """Called on the loop's thread."""
        self._events.append(event)
        self._bell.ring(is_urgent=True)

    def _queued(self) -> TransportEvent | None:
        events = self._events
        while events:
            event = events.popleft()
            assert not isinstance(event, NcclNews)  # it was not offered
            if isinstance(event, SharedUp):
                assert isinstance(event.ends, SharedEnds)
                self._ends[event.shard] = event.ends
                self._look_into_rings()
                continue
            if isinstance(event, LinkDown) and event.shard in self._ends:
                del self._ends[event.shard]
                self._look_into_rings()
            return event
        return None

    def _look_into_rings(self) -> None:
        self._shard_of = {ends.replies: shard for shard, ends in self._ends.items()}
        self._bell.set_readers(list(self._shard_of))
        is_whole = len(self._ends) == len(self._shards)
        self._calls = (
            RingCalls(self._shards, self._ends, self._bell, self._epoch) if is_whole else None
        )

    def _has_events(self) -> bool:
        return bool(self._events)

    def _answer(self, reader: RingReader) -> TransportEvent | None:
        """The answer that is there; none where nonsense is: that link is made anew."""
        shard = self._shard_of[reader]
        try:
            at = reader.next()
            if at is None:
                return None
            reply = read_reply(reader, at)
        except ProtocolError as error:
            del self._ends[shard]
            self._look_into_rings()
            self._grpc.fail(shard, error)
            return None
        reader.free()
        return Answer(shard, *reply)
