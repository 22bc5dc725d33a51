"""One gateway's stream at a shard: reads frames, writes answers as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet

import grpc
import torch

from galerne.errors import GalerneError, ProtocolError
from galerne.frame import BY_NCCL, NO_CREDIT, Frame, FrameHeader, FrameKind, Reassembler
from galerne.hello import Hello, encode_refusal
from galerne.loop_thread import until_one_ends
from shards.jobs import Job
from shards.nccl.link import NcclLink
from shards.shm.link import wrong_epoch
from shards.times import NO_TIMES, ShardTimes
from shards.wire import encode_reply, read_request


class ExchangeStream:
    """Implements ``AnswerLink``, also for frames that came by shared memory or NCCL."""

    def __init__(
        self,
        hello: Hello,
        max_frames: int,
        epochs: AbstractSet[int],
        submit: Callable[[Job], None],
    ) -> None:
        """Create on the loop that serves it; ``submit`` takes frames to compute."""
        self.hello = hello
        self.nccl: NcclLink | None = None  # takes what is announced for it
        self._max_frames = max_frames
        self._epochs = epochs
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[tuple[list[bytes], bool]] = asyncio.Queue()
        self._unanswered = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._failure: asyncio.Future[None] = self._loop.create_future()

    async def serve(
        self,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
        reassembler: Reassembler,
    ) -> None:
        """Until the gateway has closed its side and all is answered.

        Raises:
            ProtocolError: The gateway does not keep to the protocol.
        """
        reader = asyncio.create_task(self._read(requests, reassembler))
        writer = asyncio.create_task(self._write_answers(context))
        await until_one_ends(reader, writer, self._failure)

    def answer(
        self, request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
    ) -> None:
        """See ``AnswerLink``."""
        self.send_answer(request, encode_reply(request, rows, times))

    def refuse(self, request: FrameHeader, error: GalerneError) -> None:
        """See ``AnswerLink``."""
        self.send_answer(request, [encode_refusal(request, error)])

    def tell(self, message: bytes) -> None:
        """Send what answers nothing. On the loop."""
        self._answers.put_nowait(([message], False))

    def fail(self, error: ProtocolError) -> None:
        """End the stream. From any thread."""
        self._loop.call_soon_threadsafe(self._set_failure, error)

    def _set_failure(self, error: ProtocolError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def send_answer(self, request: FrameHeader, messages: list[bytes]) -> None:
        """Send what answers a request. From any thread."""
        has_credit = not request.flags & NO_CREDIT
        self._loop.call_soon_threadsafe(self._answers.put_nowait, (messages, has_credit))

    def send(self, messages: list[bytes]) -> None:
        """Send what answers nothing. From any thread."""
        self._loop.call_soon_threadsafe(self._answers.put_nowait, (messages, False))

    async def _read(self, requests: AsyncIterator[bytes], reassembler: Reassembler) -> None:
        async for message in requests:
            frame = reassembler.push(message)
            if frame is not None:
                self._accept(frame)
        await self._is_idle.wait()  # half-close: what was asked is still answered

    def _accept(self, frame: Frame) -> None:
        header = frame.header
        nccl = self.nccl if header.flags & BY_NCCL else None
        if header.incarnation != self.hello.incarnation:
            raise ProtocolError("incarnation differs from the hello's")
        if nccl is not None and header.kind in (FrameKind.TURN, FrameKind.LINK_ABORT):
            nccl.take(frame)
            return
        if header.kind is not FrameKind.REQUEST:
            raise ProtocolError(f"{header.kind.name} where REQUEST was expected")
        if header.flags and (nccl is None or header.flags != BY_NCCL):
            raise ProtocolError(f"flags {header.flags:#x} in a request")
        if self._unanswered >= self._max_frames:
            raise ProtocolError(f"more than {self._max_frames} frames unanswered")
        self._unanswered += 1
        self._is_idle.clear()
        if nccl is not None:
            nccl.take(frame)
            return
        rows = read_request(frame)
        if header.epoch in self._epochs:
            self._submit(Job(header, rows, self, time.monotonic()))
        else:
            self.refuse(header, wrong_epoch(self._epochs, header.epoch))

    async def _write_answers(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while True:
            messages, has_credit = await self._answers.get()
            self._unanswered -= has_credit  # before the write: the gateway may use it at once
            for message in messages:
                await context.write(message)
            if not self._unanswered:
                self._is_idle.set()
