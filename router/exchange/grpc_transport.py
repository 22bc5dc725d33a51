"""Experts in other processes: one persistent gRPC stream per shard, on one event-loop thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence

from galerne.frame import FrameHeader, FrameKind, encode
from galerne.hello import Hello
from galerne.ids import ShardId
from router.exchange.grpc_link import AddressBook, GrpcLink, LinkConfig
from router.exchange.transport import OutgoingFrame, TransportEvent
from shards.wire import WIRE_DTYPE, RequestRows, request_sections

_CLOSE_TIMEOUT_S = 5.0


class GrpcTransport:
    """Encodes in the engine's thread; the loop thread only moves bytes."""

    def __init__(
        self,
        shards: Sequence[ShardId],
        hello: Hello,
        cluster_token: str,
        book: AddressBook,
        config: LinkConfig | None = None,
    ) -> None:
        """Start connecting to every shard at once."""
        self._hello = hello
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._links = {
            shard: GrpcLink(
                shard, hello, cluster_token, book, self._events.put, config or LinkConfig()
            )
            for shard in shards
        }
        self._thread = threading.Thread(target=self._run, name="exchange-grpc", daemon=True)
        self._thread.start()

    def send(self, frame: OutgoingFrame) -> None:
        """Encode and hand over; never blocks."""
        messages = encode(self._header(frame), request_sections(_request_rows(frame)))
        self._loop.call_soon_threadsafe(self._links[frame.shard].push, messages)

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """The next event, or None after ``timeout_s``."""
        try:
            if timeout_s <= 0:
                return self._events.get_nowait()
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End links and thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._run_links())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _run_links(self) -> None:
        async with asyncio.TaskGroup() as group:
            for link in self._links.values():
                group.create_task(link.run())

    def _header(self, frame: OutgoingFrame) -> FrameHeader:
        return FrameHeader(
            kind=FrameKind.REQUEST,
            incarnation=self._hello.incarnation,
            epoch=self._hello.epoch,
            step=frame.step,
            frame=frame.frame,
            layer=frame.layer,
            micro_batch=frame.micro_batch,
            attempt=frame.attempt,
            dtype=WIRE_DTYPE[frame.tokens.dtype],
            num_tokens=len(frame.tokens),
            num_rows=len(frame.rows.slots),
            hidden_size=frame.tokens.shape[1],
        )


def _request_rows(frame: OutgoingFrame) -> RequestRows:
    rows = frame.rows
    return RequestRows(frame.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token)
