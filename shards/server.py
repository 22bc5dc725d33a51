"""The shard server: a grpc.aio stream of frames per gateway, answered by the compute thread."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import psutil

from galerne.errors import GalerneError, HelloRefusedError, ProtocolError, UnauthenticatedError
from galerne.frame import Frame, FrameKind, Reassembler
from galerne.hello import (
    CHANNEL_OPTIONS,
    Hello,
    Welcome,
    check_hello,
    check_token,
    decode_hello,
    encode_welcome,
)
from galerne.ids import ShardId
from galerne.v1 import internal_pb2
from shards.bank import ExpertBank
from shards.metrics import ShardMetrics
from shards.wire import read_request
from shards.worker import ExpertWorker, Job, refuse

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 256 << 20
HELLO_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIdentity:
    """What a shard agrees on with its gateways."""

    shard_id: ShardId
    fingerprint: str
    numerics_profile: str
    cluster_token: str = field(repr=False)
    max_frames: int = 256


class ShardServer:
    """Serves one bank. Create, ``start`` and ``stop`` on one event loop."""

    def __init__(
        self,
        identity: ShardIdentity,
        bank: ExpertBank,
        worker: ExpertWorker,
        metrics: ShardMetrics,
        epochs: set[int],
        bytes_read: int = 0,
    ) -> None:
        self._identity = identity
        self._bank = bank
        self._worker = worker
        self._metrics = metrics
        self._epochs = epochs
        self._bytes_read = bytes_read
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        handlers = {
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
            "DescribeShard": grpc.unary_unary_rpc_method_handler(
                self._describe,
                request_deserializer=internal_pb2.DescribeShardRequest.FromString,
                response_serializer=internal_pb2.ShardDescription.SerializeToString,
            ),
        }
        generic = grpc.method_handlers_generic_handler("galerne.v1.ExpertService", handlers)
        self._server.add_generic_rpc_handlers((generic,))

    async def start(self, host: str, port: int = 0) -> int:
        """Listen; the port."""
        bound = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        return int(bound)

    async def stop(self, grace_s: float = 1.0) -> None:
        """Stop listening; streams get ``grace_s`` to end."""
        await self._server.stop(grace_s)

    async def _exchange(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        reassembler = Reassembler(MAX_FRAME_BYTES)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await self._greet(requests, context, reassembler)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello")
        except GalerneError as error:
            logger.warning("hello_refused reason=%s", error)
            await context.abort(grpc.StatusCode[error.status], str(error))
        stream = _Stream(self._identity, self._worker, self._epochs, hello)
        try:
            await stream.serve(requests, context, reassembler)
        except ProtocolError as error:
            logger.warning("exchange_stream_broken gateway=%s reason=%s", hello.gateway, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _greet(
        self,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
        reassembler: Reassembler,
    ) -> Hello:
        check_token(context.invocation_metadata(), self._identity.cluster_token)
        frame = None
        while frame is None:
            try:
                frame = reassembler.push(await anext(requests))
            except StopAsyncIteration:
                raise ProtocolError("stream closed before the hello") from None
        hello = decode_hello(frame)
        identity = self._identity
        check_hello(hello, identity.fingerprint, identity.numerics_profile, self._epochs)
        welcome = Welcome(
            shard=identity.shard_id, epochs=sorted(self._epochs), max_frames=identity.max_frames
        )
        await context.write(encode_welcome(welcome))
        return hello

    async def _describe(
        self,
        request: internal_pb2.DescribeShardRequest,
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> internal_pb2.ShardDescription:
        del request
        try:
            check_token(context.invocation_metadata(), self._identity.cluster_token)
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        return internal_pb2.ShardDescription(
            shard_id=self._identity.shard_id,
            num_experts=len(self._bank),
            resident_bytes=self._bank.num_bytes,
            bytes_read=self._bytes_read,
            frames=self._metrics.num_frames,
            rows=self._metrics.num_rows,
            rss_bytes=psutil.Process().memory_info().rss,
            epochs=sorted(self._epochs),
            pid=os.getpid(),
            metrics=self._metrics.text(),
        )


class _Stream:
    """One gateway's stream: reads frames, writes answers as they come."""

    def __init__(
        self, identity: ShardIdentity, worker: ExpertWorker, epochs: set[int], hello: Hello
    ) -> None:
        self._identity = identity
        self._worker = worker
        self._epochs = epochs
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self._unanswered = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def serve(
        self,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
        reassembler: Reassembler,
    ) -> None:
        writer = asyncio.create_task(self._write_answers(context))
        try:
            async for message in requests:
                frame = reassembler.push(message)
                if frame is not None:
                    self._accept(frame)
            await self._is_idle.wait()  # half-close: what was asked is still answered
        finally:
            writer.cancel()

    def _accept(self, frame: Frame) -> None:
        header = frame.header
        if header.kind is not FrameKind.REQUEST:
            raise ProtocolError(f"{header.kind.name} where REQUEST was expected")
        if header.incarnation != self._hello.incarnation:
            raise ProtocolError("incarnation differs from the hello's")
        if self._unanswered >= self._identity.max_frames:
            raise ProtocolError(f"more than {self._identity.max_frames} frames unanswered")
        self._unanswered += 1
        self._is_idle.clear()
        job = Job(header, read_request(frame), self._reply)
        if header.epoch not in self._epochs:
            served = ",".join(map(str, sorted(self._epochs)))
            refuse(job, HelloRefusedError("epoch", served, str(header.epoch)))
            return
        self._worker.submit(job)

    def _reply(self, messages: list[bytes]) -> None:
        """Called on the compute thread."""
        self._loop.call_soon_threadsafe(self._answers.put_nowait, messages)

    async def _write_answers(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while True:
            messages = await self._answers.get()
            self._unanswered -= 1  # before the write: the gateway may use the credit at once
            for message in messages:
                await context.write(message)
            if not self._unanswered:
                self._is_idle.set()
