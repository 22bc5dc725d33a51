"""One gateway's stream to one shard: connects, greets, carries frames, reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, cast

import grpc

from galerne.errors import GalerneError, ProtocolError
from galerne.frame import BY_NCCL, NO_CREDIT, Frame, FrameKind, Reassembler, Section
from galerne.hello import (
    CHANNEL_OPTIONS,
    EXCHANGE_METHOD,
    TOKEN_METADATA_KEY,
    Hello,
    Welcome,
    decode_adopted,
    decode_refusal,
    decode_welcome,
    encode_hello,
)
from galerne.ids import FrameId, ShardId
from galerne.internal_tls import InternalTls, open_channel
from galerne.loop_thread import until_one_ends
from router.exchange.offers import NotSharedError, Offer, SharedUp, Way
from router.exchange.transport import Adopted, Answer, LinkDown, LinkUp, Refusal, TransportEvent
from shards.times import times_of
from shards.wire import tensor_of

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class NcclNews:
    """Event: what a shard says of rows that go from GPU to GPU."""

    shard: ShardId
    frame: Frame


LinkEvent: TypeAlias = TransportEvent | SharedUp | NcclNews


class Outgoing(NamedTuple):
    """Messages of one frame."""

    messages: Sequence[bytes]
    is_answered: bool  # takes one of the shard's credits


class AddressBook(Protocol):
    """Where shards listen now; a restarted shard has a new address."""

    def address_of(self, shard: ShardId) -> str | None:
        """``host:port``, or None if the shard is not up. May block; called off the token path."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Limits of one link."""

    connect_timeout_s: float = 5.0  # at most; begins with the next one and doubles
    connect_timeout_min_s: float = 1.0  # the address may be an old one, of a host that is gone
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
        emit: Callable[[LinkEvent], None],
        config: LinkConfig,
        way: Way | None = None,
        tls: InternalTls | None = None,
    ) -> None:
        """``way``: what a shard is offered besides the stream, at each connection."""
        self._shard = shard
        self._hello = hello
        self._metadata = ((TOKEN_METADATA_KEY, cluster_token),)
        self._book = book
        self._emit = emit
        self._config = config
        self._outbox: deque[Outgoing] = deque()
        self._wake = asyncio.Event()
        self._is_up = False
        self._credits = 0
        self._logged_reasons: set[str] = set()  # since the link was last up
        self._way = way
        self._tls = tls
        self._not_shared = ""
        self._failure: asyncio.Future[None] | None = None

    def push(self, outgoing: Outgoing) -> None:
        """Queue a frame's chunks; dropped while the link is down (the session resends)."""
        if self._is_up:
            self._outbox.append(outgoing)
            self._wake.set()

    def fail(self, error: GalerneError) -> None:
        """Give up the connection; the next one is made as after any other fault."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        config = self._config
        backoff, patience_s = config.backoff_min_s, config.connect_timeout_min_s
        while True:
            was_up = False
            try:
                was_up = await self._connect_once(min(patience_s, config.connect_timeout_s))
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
                backoff, patience_s = config.backoff_min_s, config.connect_timeout_min_s
                self._logged_reasons = {reason}
            elif reason not in self._logged_reasons:
                logger.warning("link_not_up shard=%s reason=%s", self._shard, reason)
                self._logged_reasons.add(reason)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, config.backoff_max_s)
            patience_s = min(patience_s * 2, config.connect_timeout_s)

    async def _connect_once(self, timeout_s: float) -> bool:
        """Serve one connection; whether it was up when it ended."""
        address = await asyncio.to_thread(self._book.address_of, self._shard)
        if address is None:
            raise ProtocolError("no address is known")
        async with open_channel(address, CHANNEL_OPTIONS, self._tls) as channel:
            call = cast(_Call, channel.stream_stream(EXCHANGE_METHOD)(metadata=self._metadata))
            reassembler = Reassembler(MAX_FRAME_BYTES)
            try:
                async with asyncio.timeout(timeout_s):
                    if self._way is not None:  # no memory is made for whom nobody reaches
                        await _connected(channel)
                    shared = await self._greet(call, reassembler)
                self._is_up = True
                if shared is not None:
                    self._emit(SharedUp(self._shard, shared))
                self._emit(LinkUp(self._shard))
                way = "grpc" if shared is None or self._way is None else self._way.name
                shared = None  # or the trace of what ends the link would hold its memory
                logger.info("link_up shard=%s address=%s by=%s", self._shard, address, way)
                await self._carry(call, reassembler)
            finally:
                call.cancel()
        return True

    async def _greet(self, call: _Call, reassembler: Reassembler) -> object | None:
        """Agree; what the link has besides the stream."""
        offer = await self._create_offer()
        try:
            hello = self._hello if offer is None else offer.put_into(self._hello)
            welcome = await self._introduce(call, reassembler, hello)
            return None if offer is None else offer.accepted_by(welcome)
        except NotSharedError as error:
            self._log_not_shared(str(error))
            return None
        finally:
            if offer is not None:
                offer.withdraw()

    async def _create_offer(self) -> Offer | None:
        if self._way is None:
            return None
        try:
            return await asyncio.to_thread(self._way.offer, self._shard)
        except (OSError, NotSharedError) as error:
            self._log_not_shared(str(error))
            return None

    def _log_not_shared(self, reason: str) -> None:
        if reason != self._not_shared and self._way is not None:
            told = self._shard, reason
            if self._way.is_by_nccl:
                logger.warning("nccl_not_used shard=%s reason=%s", *told)
            else:
                logger.warning("shared_memory_not_used shard=%s reason=%s", *told)
        self._not_shared = reason

    async def _introduce(self, call: _Call, reassembler: Reassembler, hello: Hello) -> Welcome:
        await call.write(encode_hello(hello))
        frame = None
        while frame is None:
            frame = reassembler.push(await _read(call))
        welcome = decode_welcome(frame)
        if welcome.shard != self._shard:
            raise ProtocolError(f"{welcome.shard} answers where {self._shard} was expected")
        self._credits = welcome.max_frames
        return welcome

    async def _carry(self, call: _Call, reassembler: Reassembler) -> None:
        reader = asyncio.create_task(self._read_frames(call, reassembler))
        writer = asyncio.create_task(self._write(call))
        self._failure = asyncio.get_running_loop().create_future()
        try:
            await until_one_ends(reader, writer, self._failure)
        finally:
            self._failure = None  # what it raises has frames of this link in its trace
            del reader, writer

    async def _read_frames(self, call: _Call, reassembler: Reassembler) -> None:
        while True:
            frame = reassembler.push(await _read(call))
            if frame is not None:
                self._credits += not frame.header.flags & NO_CREDIT
                self._wake.set()
                self._deliver(frame)

    async def _write(self, call: _Call) -> None:
        while True:
            while self._outbox and (self._credits or not self._outbox[0].is_answered):
                messages, is_answered = self._outbox.popleft()
                self._credits -= is_answered
                for message in messages:
                    await call.write(message)
            self._wake.clear()
            await self._wake.wait()

    def _deliver(self, frame: Frame) -> None:
        header = frame.header
        if header.incarnation != self._hello.incarnation:
            raise ProtocolError("an answer to another incarnation")
        if header.flags & BY_NCCL and self._way is not None and self._way.is_by_nccl:
            self._emit(NcclNews(self._shard, frame))
            return
        if header.kind is FrameKind.ADOPTED:
            self._emit(Adopted(self._shard, decode_adopted(frame)))
            return
        if header.kind is FrameKind.REFUSAL:
            self._emit(Refusal(self._shard, FrameId(header.frame), decode_refusal(frame)))
            return
        if header.kind is not FrameKind.REPLY or Section.ROWS not in frame.sections:
            raise ProtocolError(f"{header.kind.name} where REPLY was expected")
        shape = (header.num_rows, header.hidden_size)
        rows = tensor_of(frame.sections[Section.ROWS], shape, header.dtype)
        times = times_of(header.num_tokens, header.gateway)
        self._emit(Answer(self._shard, FrameId(header.frame), rows, times=times))


async def _connected(channel: grpc.aio.Channel) -> None:
    """Raises ProtocolError at the first failure, not after gRPC's own patience."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ProtocolError("cannot connect")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


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
