"""Experts in other processes: one persistent gRPC stream per shard, on the process' gRPC loop."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from galerne.errors import GalerneError
from galerne.frame import FrameHeader, FrameKind, encode
from galerne.hello import Hello
from galerne.ids import ShardId
from galerne.internal_tls import InternalTls
from galerne.loop_thread import grpc_loop
from router.exchange.grpc_link import (
    AddressBook,
    GrpcLink,
    LinkConfig,
    LinkEvent,
    NcclNews,
    Outgoing,
)
from router.exchange.offers import SharedUp, Way
from router.exchange.transport import OutgoingCall, OutgoingFrame, TransportEvent
from shards.wire import WIRE_DTYPE, RequestRows, request_sections

_CLOSE_TIMEOUT_S = 5.0
_T = TypeVar("_T")


class GrpcTransport:
    """Encodes in the engine's thread; the loop thread only moves bytes."""

    def __init__(
        self,
        shards: Sequence[ShardId],
        hello: Hello,
        cluster_token: str,
        book: AddressBook,
        config: LinkConfig | None = None,
        emit: Callable[[LinkEvent], None] | None = None,
        way: Way | None = None,
        tls: InternalTls | None = None,
    ) -> None:
        """Start connecting to every shard at once; without ``tls`` in plain text.

        ``emit`` takes the events in place of ``receive``, and then shards are offered a ``way``
        besides the stream.
        """
        self._hello = hello
        number = hello.gateway.rpartition("-")[2]  # of "gateway-0"
        self._gateway = int(number) if number.isdigit() else 0
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._loop = grpc_loop().loop
        self._links = {
            shard: GrpcLink(
                *(shard, hello, cluster_token, book, emit or self._put, config or LinkConfig()),
                *(way, tls),
            )
            for shard in shards
        }
        self._is_closed = False
        self._loop.call_soon_threadsafe(self._start)

    def send(self, frame: OutgoingFrame) -> None:
        """Encode and hand over; never blocks."""
        if self._is_closed:
            return
        messages = encode(self.header(frame), request_sections(request_rows(frame, frame.tokens)))
        self.push(frame.shard, messages)

    def push(self, shard: ShardId, messages: Sequence[bytes], *, is_answered: bool = True) -> None:
        """Hand messages over as they are, of a frame that is answered or not. From any thread."""
        self._tell(shard, GrpcLink.push, Outgoing(messages, is_answered))

    def send_call(self, call: OutgoingCall) -> None:
        """See ``Transport``: frame by frame."""
        del call

    def receive(self, timeout_s: float, num_awaited: int = 1) -> TransportEvent | None:
        """See ``Transport``."""
        del num_awaited
        try:
            if timeout_s <= 0:
                event = self._events.get_nowait()
            else:
                event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return None if self._is_closed else event

    def close(self) -> None:
        """End the links."""
        self._is_closed = True
        grpc_loop().run(self._stop(), _CLOSE_TIMEOUT_S)
        self._tasks.clear()  # their frames hold the links, and these whoever takes the events
        self._links.clear()

    def _start(self) -> None:
        self._tasks = [self._loop.create_task(link.run()) for link in self._links.values()]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fail(self, shard: ShardId, error: GalerneError) -> None:
        """Give up a link and make it anew."""
        self._tell(shard, GrpcLink.fail, error)

    def _tell(self, shard: ShardId, what: Callable[[GrpcLink, _T], None], value: _T) -> None:
        link = self._links.get(shard)  # none once closed
        if link is not None:
            self._loop.call_soon_threadsafe(what, link, value)

    def _put(self, event: LinkEvent) -> None:
        assert not isinstance(event, SharedUp | NcclNews)  # nothing was offered
        self._events.put(event)

    def header(self, frame: OutgoingFrame) -> FrameHeader:
        """Of the frame's request."""
        return FrameHeader(
            kind=FrameKind.REQUEST,
            gateway=self._gateway,
            incarnation=self._hello.incarnation,
            epoch=self._hello.epoch,
            step=frame.step,
            frame=frame.frame,
            layer=frame.layer,
            micro_batch=frame.micro_batch,
            attempt=frame.attempt,
            dtype=WIRE_DTYPE[frame.source.dtype],
            num_tokens=len(frame.rows.tokens),
            num_rows=len(frame.rows.slots),
            hidden_size=frame.source.shape[1],
        )


def request_rows(frame: OutgoingFrame, tokens: torch.Tensor) -> RequestRows:
    """A frame's payload."""
    rows = frame.rows
    indices = (rows.expert_ids, rows.num_rows_by_group, rows.row_token)
    return RequestRows(tokens, *indices, frame.adapters)
