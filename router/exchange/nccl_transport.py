"""Experts in other processes, from GPU to GPU by NCCL where both ends can and may.

Every link has its stream, which announces what goes by NCCL, says that the shard lives, and takes
all frames where there is no communicator. A link has one communicator in an epoch, made before the
link is up; when it is given up, the link goes by the stream until the next epoch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import replace

from galerne.hello import Hello, NcclOffer, Welcome
from galerne.ids import ShardId
from galerne.internal_tls import InternalTls
from router.exchange.grpc_link import AddressBook, LinkConfig, LinkEvent
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.nccl_link import NcclShardLink, NcclState
from router.exchange.offers import NotSharedError, SharedUp, Way
from router.exchange.transport import OutgoingCall, OutgoingFrame, TransportEvent
from shards.nccl.availability import NcclUnavailableError
from shards.nccl.port import NcclFaultError
from shards.nccl.process import NcclProcess

_CLOSED = object()


class _CommunicatorOffer:
    """Implements ``Offer``."""

    def __init__(self, offer: NcclOffer) -> None:
        self._offer = offer

    def put_into(self, hello: Hello) -> Hello:
        """See ``Offer``."""
        return replace(hello, nccl=self._offer)

    def accepted_by(self, welcome: Welcome) -> bytes:
        """The id of the communicator, which the shard is about to join."""
        if not welcome.joins_nccl:
            raise NotSharedError(welcome.not_shared)
        return bytes.fromhex(self._offer.id)

    def withdraw(self) -> None:
        """See ``Offer``: nobody joins with an id of which it was not told."""


class NcclTransport:
    """Implements ``Transport``."""

    def __init__(
        self,
        shards: Sequence[ShardId],
        hello: Hello,
        cluster_token: str,
        book: AddressBook,
        nccl: NcclProcess,
        config: LinkConfig | None = None,
        tls: InternalTls | None = None,
    ) -> None:
        """Start connecting to every shard at once.

        Raises:
            NcclUnavailableError: NCCL cannot be used here at all, and why.
        """
        runtime = nccl.runtime()
        self._nccl = nccl
        self._events: queue.SimpleQueue[TransportEvent | object] = queue.SimpleQueue()
        self._is_closed = False
        self._unasked: set[ShardId] = set()  # sent to since rows were last waited for
        self._offers: dict[ShardId, NcclOffer] = {}  # kept until joined: NCCL listens for each
        self._has_room: set[ShardId] = set()
        self._taking = threading.Lock()  # of it, for a moment only
        self._lock = threading.Lock()  # streams may be up before their links are made here
        with self._lock:
            way = Way("nccl", self._offer, is_by_nccl=True)
            links = (shards, hello, cluster_token, book)
            self._grpc = GrpcTransport(*links, config, self._take, way, tls)
            self._links = {
                shard: NcclShardLink(
                    *(shard, hello.incarnation, runtime, self._grpc, self._events.put)
                )
                for shard in shards
            }

    def send(self, frame: OutgoingFrame) -> None:
        """See ``Transport``."""
        if self._is_closed:
            return
        if self._links[frame.shard].send(frame, self._grpc.header(frame)):
            self._unasked.add(frame.shard)
        else:
            self._grpc.send(frame)

    def send_call(self, call: OutgoingCall) -> None:
        """See ``Transport``: frame by frame."""
        del call

    def receive(self, timeout_s: float, num_awaited: int = 1) -> TransportEvent | None:
        """See ``Transport``."""
        del num_awaited
        if self._is_closed:
            return None
        for shard in self._unasked:
            self._links[shard].ask()
        self._unasked.clear()
        try:
            event = self._events.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        if self._is_closed or event is _CLOSED:
            return None
        assert isinstance(event, TransportEvent)
        return event

    def close(self) -> None:
        """See ``Transport``."""
        if self._is_closed:
            return
        self._is_closed = True
        self._grpc.close()
        for link in self._links.values():
            link.close()
        self._events.put(_CLOSED)  # whoever still waits

    @property
    def states(self) -> dict[ShardId, NcclState]:
        """What goes by NCCL."""
        return {shard: link.state for shard, link in self._links.items()}

    def _link(self, shard: ShardId) -> NcclShardLink:
        with self._lock:
            return self._links[shard]

    def _offer(self, shard: ShardId) -> _CommunicatorOffer:
        """Called on some thread, for one connection of a link after the other."""
        if self._link(shard).state is not NcclState.UNUSED:
            raise NotSharedError("its communicator of this epoch has ended")
        try:
            if shard not in self._offers:
                self._take_room(shard)
                self._offers[shard] = self._nccl.offer()
        except (NcclUnavailableError, NcclFaultError) as error:
            raise NotSharedError(str(error)) from error
        return _CommunicatorOffer(self._offers[shard])

    def _take_room(self, shard: ShardId) -> None:
        """For one of all the links that are made at once; raises NcclUnavailableError."""
        with self._taking:
            states = [self._link(other).state for other in self._has_room - {shard}]
            num_up = min(states.count(NcclState.UP), self._nccl.num_links)  # counted there
            num_ours = len(states) - states.count(NcclState.ENDED)
            self._nccl.runtime_for_link(num_ours - num_up)
            self._has_room.add(shard)

    def _take(self, event: LinkEvent) -> None:
        """Called on the loop's thread."""
        link = self._link(event.shard)
        if isinstance(event, SharedUp):
            assert isinstance(event.ends, bytes)
            link.join(event.ends)
        else:
            link.take(event)
