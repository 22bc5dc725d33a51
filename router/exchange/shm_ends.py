"""The gateway's end of a link through shared memory: what it offers a shard, and the outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace

from galerne.errors import ProtocolError
from galerne.hello import Hello, SharedFile, Welcome
from router.exchange.offers import NotSharedError
from shards.shm.memory import OwnedMemory, open_shared
from shards.shm.rings import Bell, RingReader, RingWriter, ring_offsets


@dataclass(frozen=True, slots=True)
class SharedEnds:
    """Rings of one link, and the bell of its shard."""

    requests: RingWriter
    replies: RingReader
    bell: Bell


class RingOffer:
    """Memory for the rings of one connection, until the shard has answered."""

    def __init__(self, bell: SharedFile, ring_bytes: int) -> None:
        """Create it; ``ring_bytes`` of each of the two rings.

        Raises:
            OSError: There is no memory for it.
        """
        self._bell = bell
        self._memory = OwnedMemory(2 * ring_bytes)

    def put_into(self, hello: Hello) -> Hello:
        """The hello with the offer."""
        return replace(hello, rings=self._memory.file, bell=self._bell)

    def accepted_by(self, welcome: Welcome) -> SharedEnds:
        """Our ends of the rings.

        Raises:
            NotSharedError: The shard does not share memory with us, and why.
        """
        if welcome.bell is None:
            raise NotSharedError(welcome.not_shared)
        try:
            bell = Bell(open_shared(welcome.bell))
        except ProtocolError as error:
            raise NotSharedError(str(error)) from error
        capacity, requests, replies = ring_offsets(self._memory)
        return SharedEnds(
            RingWriter(self._memory, requests, capacity),
            RingReader(self._memory, replies, capacity),
            bell,
        )

    def withdraw(self) -> None:
        """Nobody else can map it."""
        self._memory.withdraw()
