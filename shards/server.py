"""The shard server: a grpc.aio stream of frames per gateway, answered by the compute thread."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import psutil
from google.protobuf.message import Message

from galerne.errors import GalerneError, ProtocolError
from galerne.frame import Reassembler
from galerne.hello import (
    CHANNEL_OPTIONS,
    Hello,
    NcclOffer,
    Welcome,
    check_hello,
    check_token,
    decode_hello,
    encode_adopted,
    encode_welcome,
)
from galerne.ids import ShardId
from galerne.internal_tls import InternalTls, add_port
from galerne.part_health import add_part_health
from galerne.v1 import internal_pb2 as internal
from shards.adapter_control import ShardAdapters
from shards.adapters.messages import adapter_report, decode_adapter
from shards.bank import ExpertBank
from shards.control import ShardControl
from shards.epochs import ServedEpochs
from shards.metrics import ShardMetrics
from shards.nccl.availability import NcclUnavailableError
from shards.nccl.link import NcclLink
from shards.nccl.process import NcclProcess
from shards.residency import as_message, by_layer, experts_in
from shards.shm.link import SharedLink
from shards.stream import ExchangeStream
from shards.worker import ExpertWorker

logger = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

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
        epochs: Collection[int],
        bytes_read: int = 0,
        adapters_root: Path | None = None,
        nccl: NcclProcess | None = None,
    ) -> None:
        """``epochs``: those that place what the bank holds here; more may be prepared.

        Without ``nccl`` no link goes from GPU to GPU.
        """
        self._nccl = nccl
        self._adapters = ShardAdapters(adapters_root, bank, worker)
        self._identity = identity
        self._bank = bank
        self._worker = worker
        self._metrics = metrics
        self.epochs = ServedEpochs(epochs)
        self._streams: set[ExchangeStream] = set()
        self._changes: set[asyncio.Task[int]] = set()
        self._control = ShardControl(bank, worker, self.epochs, bank.resident, self._tell_adopted)
        self._bytes_read = bytes_read
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        handlers = {
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
            "DescribeShard": self._unary(
                self._describe, internal.DescribeShardRequest, internal.ShardDescription
            ),
            "PrepareEpoch": self._unary(
                self._prepare, internal.PrepareEpochRequest, internal.ExpertChange
            ),
            "RetireEpochs": self._unary(
                self._retire, internal.RetireEpochsRequest, internal.ExpertChange
            ),
            "Adopt": self._unary(self._adopt, internal.AdoptRequest, internal.ExpertChange),
            "LoadAdapter": self._unary(
                self._load_adapter, internal.LoadAdapterRequest, internal.AdapterReport
            ),
            "UnloadAdapter": self._unary(
                self._unload_adapter, internal.UnloadAdapterRequest, internal.AdapterReport
            ),
        }
        generic = grpc.method_handlers_generic_handler("galerne.v1.ExpertService", handlers)
        self._server.add_generic_rpc_handlers((generic,))
        add_part_health(
            self._server, worker.is_alive, {"galerne.v1.ExpertService": worker.is_alive}
        )

    async def start(self, host: str, port: int = 0, tls: InternalTls | None = None) -> int:
        """Listen; the port. Without ``tls`` in plain text."""
        bound = add_port(self._server, f"{host}:{port}", tls)
        await self._server.start()
        return bound

    @property
    def num_streams(self) -> int:
        """Gateways that are connected."""
        return len(self._streams)

    @property
    def num_adopted(self) -> int:
        """Experts held for lost shards, of all layers."""
        return len(self._control.adopted)

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
        await self._serve(hello, requests, context, reassembler)

    async def _serve(
        self,
        hello: Hello,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
        reassembler: Reassembler,
    ) -> None:
        stream = ExchangeStream(hello, self._identity.max_frames, self.epochs, self._worker.submit)
        shared, not_shared = None, ""
        if hello.nccl is not None:
            stream.nccl, not_shared = await self._link_by_nccl(hello, hello.nccl, stream)
        else:
            shared, not_shared = self._share(hello, stream)
        welcome = Welcome(
            shard=self._identity.shard_id,
            epochs=sorted(self.epochs),
            max_frames=self._identity.max_frames,
            bell=self._worker.bell.file if shared else None,
            joins_nccl=stream.nccl is not None,
            not_shared=not_shared,
        )
        await context.write(encode_welcome(welcome))
        if stream.nccl is not None:
            stream.nccl.start()
        if shared is not None:
            self._worker.attach(shared)
        self._streams.add(stream)
        if self._control.adopted:
            stream.tell(self._adopted_message(stream))
        try:
            await stream.serve(requests, context, reassembler)
        except ProtocolError as error:
            logger.warning("exchange_stream_broken gateway=%s reason=%s", hello.gateway, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._streams.discard(stream)
            if stream.nccl is not None:
                stream.nccl.close()
            if shared is not None:
                self._worker.detach(shared)
                shared = None  # or the trace of what ended the stream would hold its memory

    def _share(self, hello: Hello, stream: ExchangeStream) -> tuple[SharedLink | None, str]:
        """The link through memory that the gateway offers; none, and why."""
        if self._worker.bell.file is None:
            return None, "the shard has no shared memory"
        try:
            return SharedLink(hello, self.epochs, stream, stream.fail), ""
        except ProtocolError as error:
            return None, str(error)

    async def _link_by_nccl(
        self, hello: Hello, offer: NcclOffer, stream: ExchangeStream
    ) -> tuple[NcclLink | None, str]:
        """The link from GPU to GPU that the gateway offers; none, and why."""
        if self._nccl is None:
            return None, "the shard uses no NCCL"
        try:  # loads CUDA at the first time
            runtime = await asyncio.to_thread(self._nccl.accept, offer)
            link = NcclLink(
                *(hello, offer, self.epochs, stream, self._worker.submit, runtime),
                self._bank.device,
            )
        except (NcclUnavailableError, ValueError) as error:
            return None, str(error)
        return link, ""

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
        check_hello(hello, identity.fingerprint, identity.numerics_profile, self.epochs)
        return hello

    def _tell_adopted(self) -> None:
        for stream in self._streams:
            stream.tell(self._adopted_message(stream))

    def _adopted_message(self, stream: ExchangeStream) -> bytes:
        return encode_adopted(stream.hello, by_layer(self._control.adopted))

    def _unary(
        self,
        answer: Callable[[Any], Awaitable[Message]],
        request: type[Message],
        response: type[Message],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A method for holders of the cluster's token; errors are statuses."""

        async def call(message: Message, context: Context) -> Message:
            try:
                check_token(context.invocation_metadata(), self._identity.cluster_token)
                return await answer(message)
            except GalerneError as error:
                await context.abort(grpc.StatusCode[error.status], str(error))
                raise

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )

    async def _whole(self, change: Coroutine[None, None, int]) -> tuple[int, float]:
        """Number of experts changed, and seconds.

        A change goes on to its end although its caller left: the next one waits for it.
        """
        started = time.monotonic()
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        num_experts = await asyncio.shield(task)
        return num_experts, time.monotonic() - started

    async def _prepare(self, request: internal.PrepareEpochRequest) -> internal.ExpertChange:
        loading = self._control.prepare(request.epoch, experts_in(request.experts))
        loaded, seconds = await self._whole(loading)
        return internal.ExpertChange(num_loaded=loaded, seconds=seconds)

    async def _retire(self, request: internal.RetireEpochsRequest) -> internal.ExpertChange:
        released, seconds = await self._whole(self._control.retire(request.keep))
        return internal.ExpertChange(num_released=released, seconds=seconds)

    async def _adopt(self, request: internal.AdoptRequest) -> internal.ExpertChange:
        loaded, seconds = await self._whole(self._control.adopt(experts_in(request.experts)))
        return internal.ExpertChange(num_loaded=loaded, seconds=seconds)

    async def _load_adapter(self, request: internal.LoadAdapterRequest) -> internal.AdapterReport:
        return adapter_report(await self._adapters.load(decode_adapter(request.adapter)))

    async def _unload_adapter(
        self, request: internal.UnloadAdapterRequest
    ) -> internal.AdapterReport:
        await self._adapters.unload(request.id)
        return internal.AdapterReport(id=request.id)

    async def _describe(self, request: internal.DescribeShardRequest) -> internal.ShardDescription:
        metrics = self._metrics
        return internal.ShardDescription(
            shard_id=self._identity.shard_id,
            num_experts=len(self._bank),
            resident_bytes=self._bank.num_bytes,
            bytes_read=self._bytes_read,
            frames=metrics.num_frames,
            rows=metrics.num_rows,
            rss_bytes=psutil.Process().memory_info().rss,
            epochs=sorted(self.epochs),
            pid=os.getpid(),
            metrics=metrics.text(),
            adopted=as_message(self._control.adopted),
            expert_rows=metrics.expert_rows.reshape(-1).tolist() if request.with_load else (),
            compute_seconds=metrics.compute_seconds,
        )
