"""One gateway's stream to one shard: connects, greets, carries frames, reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import grpc

from galerne.errors import GalerneError, OverloadedError, ProtocolError
from galerne.frame import Frame, FrameKind, Reassembler, Section
from galerne.hello import (
    CHANNEL_OPTIONS,
    EXCHANGE_METHOD,
    TOKEN_METADATA_KEY,
    Hello,
    decode_welcome,
    encode_hello,
    read_json,
)
from galerne.ids import FrameId, ShardId
from router.exchange.transport import Answer, LinkDown, LinkUp, Refusal, TransportEvent
from shards.wire import tensor_of

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 256 << 20


class AddressBook(Protocol):
    """Where shards listen now; a restarted shard has a new address."""

    def address_of(self, shard: ShardId) -> str | None:
        """``host:port``, or None if the shard is not up. May block; called off the token path."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Limits of one link."""

    connect_timeout_s: float = 5.0
    backoff_min_s: float = 0.05
    backoff_max_s: float = 0.25


class GrpcLink:
    """Runs on the transport's event loop."""

    def __init__(
        self,
        shard: ShardId,
        hello: Hello,
        cluster_token: str,
        book: AddressBook,
        emit: Callable[[TransportEvent], None],
        config: LinkConfig,
    ) -> None:
        self._shard = shard
        self._hello = hello
        self._metadata = ((TOKEN_METADATA_KEY, cluster_token),)
        self._book = book
        self._emit = emit
        self._config = config
        self._outbox: deque[Sequence[bytes]] = deque()
        self._wake = asyncio.Event()
        self._is_up = False
        self._credits = 0
        self._logged_reason = ""

    def push(self, messages: Sequence[bytes]) -> None:
        """Queue a frame's chunks; dropped while the link is down (the session resends)."""
        if self._is_up:
            self._outbox.append(messages)
            self._wake.set()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        backoff = self._config.backoff_min_s
        while True:
            was_up = False
            try:
                was_up = await self._connect_once()
                reason = "stream ended"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (GalerneError, TimeoutError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
            except Exception as error:  # border of the link: one bad peer must not end the others
                logger.exception("link_failed shard=%s", self._shard)
                reason = f"{type(error).__name__}: {error}"
            was_up = was_up or self._is_up
            self._is_up = False
            self._outbox.clear()
            if was_up:
                logger.warning("link_down shard=%s reason=%s", self._shard, reason)
                self._emit(LinkDown(self._shard, reason))
                backoff = self._config.backoff_min_s
            elif reason != self._logged_reason:
                logger.warning("link_not_up shard=%s reason=%s", self._shard, reason)
            self._logged_reason = reason
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, self._config.backoff_max_s)

    async def _connect_once(self) -> bool:
        """Serve one connection; whether it was up when it ended."""
        address = await asyncio.to_thread(self._book.address_of, self._shard)
        if address is None:
            raise ProtocolError("no address is known")
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            call = cast(_Call, channel.stream_stream(EXCHANGE_METHOD)(metadata=self._metadata))
            reassembler = Reassembler(MAX_FRAME_BYTES)
            try:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await self._greet(call, reassembler)
                self._is_up = True
                self._emit(LinkUp(self._shard))
                logger.info("link_up shard=%s address=%s", self._shard, address)
                await self._carry(call, reassembler)
            finally:
                call.cancel()
        return True

    async def _greet(self, call: _Call, reassembler: Reassembler) -> None:
        await call.write(encode_hello(self._hello))
        frame = None
        while frame is None:
            frame = reassembler.push(await _read(call))
        welcome = decode_welcome(frame)
        if welcome.shard != self._shard:
            raise ProtocolError(f"{welcome.shard} answers where {self._shard} was expected")
        self._credits = welcome.max_frames

    async def _carry(self, call: _Call, reassembler: Reassembler) -> None:
        writer = asyncio.create_task(self._write(call))
        try:
            while True:
                frame = reassembler.push(await _read(call))
                if frame is not None:
                    self._credits += 1
                    self._wake.set()
                    self._deliver(frame)
        finally:
            writer.cancel()

    async def _write(self, call: _Call) -> None:
        while True:
            while self._outbox and self._credits:
                self._credits -= 1
                for message in self._outbox.popleft():
                    await call.write(message)
            self._wake.clear()
            await self._wake.wait()

    def _deliver(self, frame: Frame) -> None:
        header = frame.header
        if header.incarnation != self._hello.incarnation:
            raise ProtocolError("an answer to another incarnation")
        if header.kind is FrameKind.REFUSAL:
            fields = read_json(frame, FrameKind.REFUSAL)
            self._emit(Refusal(self._shard, FrameId(header.frame), _refusal_error(fields)))
            return
        if header.kind is not FrameKind.REPLY or Section.ROWS not in frame.sections:
            raise ProtocolError(f"{header.kind.name} where REPLY was expected")
        shape = (header.num_rows, header.hidden_size)
        rows = tensor_of(frame.sections[Section.ROWS], shape, header.dtype)
        self._emit(Answer(self._shard, FrameId(header.frame), rows))


class _Call(Protocol):
    """The part of ``grpc.aio.StreamStreamCall`` used here."""

    async def write(self, request: bytes) -> None: ...

    async def read(self) -> object: ...

    def cancel(self) -> bool: ...


async def _read(call: _Call) -> bytes:
    message = await call.read()
    if message is grpc.aio.EOF:
        raise ProtocolError("the shard closed the stream")
    assert isinstance(message, bytes)
    return message


def _refusal_error(fields: dict[str, object]) -> GalerneError:
    message = str(fields.get("message"))
    if fields.get("is_retryable"):
        return OverloadedError(message, 0, 0.0)
    return ProtocolError(f"refused by the shard: {message}")
