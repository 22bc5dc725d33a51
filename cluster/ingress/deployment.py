"""What runs in Serve's replica: one frontend behind HTTP and gRPC."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
from fastapi import FastAPI
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from cluster.directory import RayDirectory
from cluster.ingress import loopback
from cluster.ingress.busy import BusyMeter
from cluster.ingress.head_watch import patience_s, watch_head
from cluster.ingress.leaving import HealthChecks
from cluster.ingress.serve_context import RayContext, ServeContext, refusing
from cluster.ingress.settings import IngressSettings
from galerne import logs
from galerne.errors import NotServingError
from galerne.v1 import cluster_pb2 as cluster_pb
from router.api.audit import AuditLog
from router.api.beat import FrontendBeat
from router.api.cluster_servicer import ClusterServicer
from router.api.frontend import Frontend
from router.api.grpc_servicer import InferenceServicer, authorization_of
from router.api.grpc_status import REQUEST_ID_KEY, request_id_of
from router.api.health import HealthServicer
from router.api.http_app import build_http_app
from router.api.key_files import KeyFiles
from router.api.log_level import FRONTEND
from router.api.metrics import FrontendMetrics
from router.api.shared_accounts import SharedAccounts
from router.chat.tokenizer import load_tokenizer
from router.gateway.metrics import show_pool
from router.gateway.pool import GatewayPool
from router.tracing.create import create_frontend_tracer

Event = TypeVar("Event", bound=Message)

_LAST_WORDS_S = 2.0  # for the terminal events of aborted requests
_STUCK_S = 5.0  # more, for what cannot be sent
_LEAVE_PERIOD_S = 1.0
_NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


def _accounts_directory(settings: IngressSettings) -> Path:
    """The same for all frontends, which are on one host."""
    if settings.key_accounts is not None:
        return settings.key_accounts
    return Path(tempfile.gettempdir()) / f"{settings.app_name}-accounts-{os.geteuid()}"


def _exit_after(seconds: float) -> None:
    """A client that takes nothing keeps its call open, and Serve would wait for it for long."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _unary(
    name: str, servicer: str = "_inference"
) -> Callable[[Any, Message, RayContext], Coroutine[Any, Any, Message]]:
    async def call(self: GalerneIngress, request: Message, grpc_context: RayContext) -> Message:
        context = ServeContext(grpc_context)
        try:
            async with refusing(context, partial(self._frontend.access.enter_rpc, name)):
                answer: Message = await getattr(getattr(self, servicer), name)(request, context)
                return answer
        except grpc.aio.AbortError:
            if not self._ends_by_return:
                raise
        return Empty()  # is not sent

    return call


def _stream_of(
    rpc: str,
    name: str,
) -> Callable[[Any, Message, RayContext], AsyncGenerator[Message, None]]:
    """A streaming method of ``InferenceService``, by the name of its messages."""

    async def call(
        self: GalerneIngress, request: Message, grpc_context: RayContext
    ) -> AsyncGenerator[Message, None]:
        messages = getattr(self._inference, name)(request, self._owner(grpc_context))
        async for message in self._stream(rpc, messages, grpc_context):
            yield message

    return call


class GalerneIngress:
    """Serve calls a gRPC method by its last name, whatever its service: names must be unique."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: IngressSettings
    ) -> None:
        """Ready when a gateway has answered.

        Raises:
            GalerneError: None has, or a setting is wrong.
        """
        logs.set_up(settings.logs, FRONTEND)
        loopback.install_in_replica()  # Serve starts the servers after this
        directory = RayDirectory(settings.controller_name, settings.namespace)
        metrics = FrontendMetrics()
        self._pool = GatewayPool(
            directory,
            settings.cluster_token,
            on_stream_moved=metrics.streams_moved.inc,
            tls=settings.tls,
        )
        show_pool(metrics.set, self._pool)
        tokenizer = load_tokenizer(settings.checkpoint)
        key_files = KeyFiles(settings.api_keys_file, settings.admin_keys_file, metrics.set)
        audit = AuditLog(settings.audit_log)
        accounts = SharedAccounts(_accounts_directory(settings))
        self._tracer = create_frontend_tracer(settings.tracing)
        await self._pool.start(settings.start_timeout_s)
        self._frontend = Frontend(
            self._pool,
            tokenizer,
            settings.limits,
            key_files.keys,
            metrics,
            audit,
            reasoning_effort=settings.reasoning_effort,
            cells_of=accounts.cells,
            tracer=self._tracer,
        )
        self._inference = InferenceServicer(self._frontend)
        self._directory, self._app_name = directory, settings.app_name
        self._cluster = ClusterServicer(directory, self._frontend)
        self._health = HealthServicer(self._frontend.unready_reason)
        # With direct ingress Serve sends trailers only of a call that returns; without it, it loses
        # the status of a stream that does.
        self._ends_by_return = settings.has_direct_ingress
        self._watchers: set[ServeContext] = set()
        self._busy, self._checks = BusyMeter(metrics.set), HealthChecks()
        self._is_closing = False
        beat = FrontendBeat(self._frontend, directory)
        with suppress(NotServingError):  # it may have been ordered to drain before we came
            await beat.tell()
        import ray  # late: it reads its environment when imported

        head = ray.get_runtime_context().gcs_address
        watching = watch_head(head, self._pool.give_up, patience_s())
        self._watches = [
            asyncio.create_task(watching),
            asyncio.create_task(key_files.keep_fresh()),
            asyncio.create_task(beat.run()),
            asyncio.create_task(self._busy.watch()),
            asyncio.create_task(self._leave_when_forgotten()),
        ]

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The HTTP API; Serve asks for it once."""
        return build_http_app(self._frontend, self._directory, gives_request_ids=False)

    async def check_health(self) -> None:
        """Serve restarts a replica that does not answer here.

        Gateways that are away are no reason: a new replica would find none either.
        """
        self._checks.seen()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``frontend_policy`` decides by; Serve asks for it."""
        return self._busy.latest

    @property
    def _is_leaving(self) -> bool:
        return self._is_closing or self._checks.have_ceased

    async def _leave_when_forgotten(self) -> None:
        """End what never ends by itself when Serve waits for this replica's last request."""
        while True:
            await asyncio.sleep(_LEAVE_PERIOD_S)
            if self._checks.have_ceased:
                for watcher in self._watchers:  # their clients ask again, elsewhere
                    watcher.finish()

    async def close(self, drain_s: float) -> None:
        """Stop admitting; end requests that run longer than ``drain_s``, and every Watch.

        Serve waits for whatever is open, so nothing must be. Resumable requests that still run stay
        at their gateways, for the frontend that comes next. Frontends that Serve has told to go,
        and no longer knows, hear of it through the controller.
        """
        self._is_closing = True
        _exit_after(drain_s + _LAST_WORDS_S + _STUCK_S)
        self._watches.append(asyncio.create_task(self._tell_others(drain_s)))
        is_drained = await self._is_drained(drain_s)
        await self._frontend.close()
        if not is_drained:
            await self._pool.abort_all()
            await self._is_drained(_LAST_WORDS_S)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.tracer.flush, _LAST_WORDS_S)
        for watcher in self._watchers:
            watcher.finish(_NOT_SERVING)
        await self._pool.close()

    async def _tell_others(self, drain_s: float) -> None:
        with suppress(NotServingError):
            await self._directory.drain(f"close-{self._app_name}", drain_s)

    async def _is_drained(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._frontend.drain()
        except TimeoutError:
            return False
        return True

    async def __del__(self) -> None:
        await self._pool.close()

    Generate = _stream_of("Generate", "stream_generate")
    Chat = _stream_of("Chat", "stream_chat")
    ResumeGenerate = _stream_of("ResumeGenerate", "resume_generate")
    ResumeChat = _stream_of("ResumeChat", "resume_chat")
    GenerateOnce = _unary("GenerateOnce")
    Tokenize = _unary("Tokenize")
    Detokenize = _unary("Detokenize")
    Abort = _unary("Abort")
    GetModelInfo = _unary("GetModelInfo")
    GetServerInfo = _unary("GetServerInfo")
    GetLoad = _unary("GetLoad")
    GetTopology = _unary("GetTopology", "_cluster")
    SetTopology = _unary("SetTopology", "_cluster")
    Explain = _unary("Explain", "_cluster")
    ListDecisions = _unary("ListDecisions", "_cluster")
    WhatIf = _unary("WhatIf", "_cluster")
    LoadAdapter = _unary("LoadAdapter", "_cluster")
    UnloadAdapter = _unary("UnloadAdapter", "_cluster")
    ListAdapters = _unary("ListAdapters", "_cluster")
    SetLogLevel = _unary("SetLogLevel", "_cluster")

    async def WatchEvents(  # noqa: N802
        self, request: cluster_pb.WatchEventsRequest, grpc_context: RayContext
    ) -> AsyncGenerator[cluster_pb.ClusterEvent, None]:
        """See ``ClusterService``."""
        events = self._cluster.stream_events(request, lambda: self._is_leaving)
        async for event in self._stream("WatchEvents", events, grpc_context):
            yield event

    async def Drain(  # noqa: N802
        self, request: cluster_pb.DrainRequest, grpc_context: RayContext
    ) -> AsyncGenerator[cluster_pb.DrainProgress, None]:
        """See ``ClusterService``."""
        progress = self._cluster.stream_drain(request)
        async for message in self._stream("Drain", progress, grpc_context):
            yield message

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayContext
    ) -> health_pb2.HealthCheckResponse:
        """See ``grpc.health.v1.Health``; open to all."""
        return await self._health.Check(request, ServeContext(grpc_context).for_servicer)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayContext
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """See ``grpc.health.v1.Health``; open to all."""
        context = ServeContext(grpc_context)
        watching = self._health.Watch(request, context.for_servicer)
        self._watchers.add(context)
        try:
            async with aclosing(context.written_by(watching)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._watchers.discard(context)

    def _owner(self, grpc_context: RayContext) -> bytes:
        return self._frontend.keys.owner(authorization_of(grpc_context.invocation_metadata()))

    async def _stream(
        self, rpc: str, events: AsyncGenerator[Event, None], grpc_context: RayContext
    ) -> AsyncGenerator[Event, None]:
        context, enter = ServeContext(grpc_context), partial(self._frontend.access.enter_rpc, rpc)
        context.set_trailing_metadata(
            [(REQUEST_ID_KEY, request_id_of(context.invocation_metadata()))]
        )
        try:
            async with refusing(context, enter), aclosing(events):
                async for event in events:
                    yield event
        except grpc.aio.AbortError:
            if not self._ends_by_return:
                raise
