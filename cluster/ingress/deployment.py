"""What runs in Serve's replica: one frontend behind HTTP and gRPC."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import grpc
from fastapi import FastAPI
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from starlette.types import ASGIApp

from cluster.directory import RayDirectory
from cluster.ingress import loopback
from cluster.ingress.busy import BusyMeter
from cluster.ingress.head_watch import patience_s, watch_head
from cluster.ingress.leaving import LOOK_PERIOD_S, HealthChecks, ask_serve, until_let_go
from cluster.ingress.serve_context import Metadata, RayContext, ServeContext, refusing
from cluster.ingress.settings import IngressSettings
from cluster.ingress.start import Start, WaitingApp
from cluster.session_files import accounts_directory
from galerne import logs
from galerne.errors import NotServingError
from galerne.v1 import cluster_pb2 as cluster_pb
from router.api.audit import AuditLog
from router.api.beat import FrontendBeat
from router.api.cluster_servicer import ClusterServicer
from router.api.drain import LAST_WORDS_S, is_drained
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
from router.tracing.frontend import FrontendTracer

Event = TypeVar("Event", bound=Message)

_STUCK_S = 5.0  # more, for what cannot be sent
_NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


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
            async with refusing(context, partial(self._enter, name)):
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
        def open_stream() -> AsyncGenerator[Message, None]:
            messages: AsyncGenerator[Message, None] = getattr(self._inference, name)(
                request, self._owner(grpc_context)
            )
            return messages

        async for message in self._stream(rpc, open_stream, grpc_context):
            yield message

    return call


class _Api(NamedTuple):
    """What there is once a gateway has answered."""

    pool: GatewayPool
    frontend: Frontend
    inference: InferenceServicer
    cluster: ClusterServicer
    http: FastAPI
    tracer: FrontendTracer | None


class GalerneIngress:
    """Serve calls a gRPC method by its last name, whatever its service: names must be unique."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: IngressSettings, _owner: object = None
    ) -> None:
        """``_owner``: a handle of Serve's that is not used: who has it is deployed with it.

        Ready when a gateway has answered, or at once; see ``answers_while_starting``.

        Raises:
            GalerneError: None has, or a setting is wrong.
        """
        logs.set_up(settings.logs, FRONTEND)
        loopback.install_in_replica()  # Serve starts the servers after this
        # With direct ingress Serve sends trailers only of a call that returns; without it, it loses
        # the status of a stream that does.
        is_direct = settings.has_direct_ingress
        self._ends_by_return = loopback.has_direct_ingress() if is_direct is None else is_direct
        self._directory = RayDirectory(settings.controller_name, settings.namespace)
        self._app_name = settings.app_name
        self._watchers: set[ServeContext] = set()
        self._metrics = FrontendMetrics()
        self._busy, self._checks = BusyMeter(self._metrics.set), HealthChecks()
        self._is_leaving = False
        self._watches = [
            asyncio.create_task(self._busy.watch()),
            asyncio.create_task(self._leave_when_let_go()),
        ]
        self._api: _Api | None = None
        self._start = Start(self._directory)
        self._health = HealthServicer(self._unready_reason)
        self._starting = asyncio.create_task(self._begin(settings))
        if not settings.answers_while_starting:
            await self._starting

    async def _begin(self, settings: IngressSettings) -> None:
        async with self._start.watched():
            await self._build(settings)

    async def _build(self, settings: IngressSettings) -> None:
        metrics = self._metrics
        pool = GatewayPool(
            self._directory,
            settings.cluster_token,
            on_stream_moved=metrics.streams_moved.inc,
            tls=settings.tls,
        )
        show_pool(metrics.set, pool)
        tokenizer = load_tokenizer(settings.checkpoint)
        key_files = KeyFiles(settings.api_keys_file, settings.admin_keys_file, metrics.set)
        audit = AuditLog(settings.audit_log)
        accounts = SharedAccounts(settings.key_accounts or accounts_directory(settings.app_name))
        tracer = create_frontend_tracer(settings.tracing)
        await pool.start(settings.start_timeout_s)
        frontend = Frontend(
            pool,
            tokenizer,
            settings.limits,
            key_files.keys,
            metrics,
            audit,
            reasoning_effort=settings.reasoning_effort,
            cells_of=accounts.cells,
            tracer=tracer,
        )
        beat = FrontendBeat(frontend, self._directory)
        with suppress(NotServingError):  # it may have been ordered to drain before we came
            await beat.tell()
        self._api = _Api(
            pool=pool,
            frontend=frontend,
            inference=InferenceServicer(frontend),
            cluster=ClusterServicer(self._directory, frontend),
            http=build_http_app(frontend, self._directory, gives_request_ids=False),
            tracer=tracer,
        )
        import ray  # late: it reads its environment when imported

        head = ray.get_runtime_context().gcs_address
        self._watches += [
            asyncio.create_task(watch_head(head, pool.give_up, patience_s())),
            asyncio.create_task(key_files.keep_fresh()),
            asyncio.create_task(beat.run()),
        ]

    @property
    def _frontend(self) -> Frontend:
        return self._built.frontend

    @property
    def _inference(self) -> InferenceServicer:
        return self._built.inference

    @property
    def _cluster(self) -> ClusterServicer:
        return self._built.cluster

    @property
    def _built(self) -> _Api:
        """Raises NotServingError while it starts."""
        if self._api is None:
            raise self._start.error()
        return self._api

    def _enter(self, rpc: str, metadata: Metadata) -> None:
        self._frontend.access.enter_rpc(rpc, metadata)

    async def _unready_reason(self) -> str | None:
        if self._api is None:
            return self._start.reason
        return await self._api.frontend.unready_reason()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The HTTP API; Serve asks for it once."""
        if self._api is not None:
            return self._api.http
        return WaitingApp(self._start, lambda: None if self._api is None else self._api.http)

    async def check_health(self) -> None:
        """Serve restarts a replica that does not answer here.

        Gateways that are away are no reason: a new replica would find none either.

        Raises:
            GalerneError: It could not start.
        """
        self._checks.seen()
        if self._starting.done():
            self._starting.result()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What ``frontend_policy`` decides by; Serve asks for it."""
        return self._busy.latest

    async def _leave_when_let_go(self) -> None:
        """End what never ends by itself when Serve waits for this replica's last request."""
        import ray  # late: it reads its environment when imported

        name = ray.get_runtime_context().get_actor_name()
        await until_let_go(self._checks, partial(ask_serve, name))
        self._is_leaving = True
        while True:
            for watcher in self._watchers:  # their clients ask again, elsewhere
                watcher.finish()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def close(self, drain_s: float) -> None:
        """Stop admitting; end requests that run longer than ``drain_s``, and every Watch.

        Serve waits for whatever is open, so nothing must be. Resumable requests that still run stay
        at their gateways, for the frontend that comes next. Frontends that Serve has told to go,
        and no longer knows, hear of it through the controller.
        """
        self._is_leaving = True
        _exit_after(drain_s + LAST_WORDS_S + _STUCK_S)
        self._watches.append(asyncio.create_task(self._tell_others(drain_s)))
        api = self._api
        if api is not None:
            is_idle = await is_drained(api.frontend, drain_s)
            await api.frontend.close()
            if not is_idle:
                await api.pool.abort_all()
                await is_drained(api.frontend, LAST_WORDS_S)
            if api.tracer is not None:
                await asyncio.to_thread(api.tracer.tracer.flush, LAST_WORDS_S)
        for watcher in self._watchers:
            watcher.finish(_NOT_SERVING)
        if api is not None:
            await api.pool.close()

    async def _tell_others(self, drain_s: float) -> None:
        with suppress(NotServingError):
            await self._directory.drain(f"close-{self._app_name}", drain_s)

    async def __del__(self) -> None:
        self._starting.cancel()
        if self._api is not None:
            await self._api.pool.close()

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

        def open_stream() -> AsyncGenerator[cluster_pb.ClusterEvent, None]:
            return self._cluster.stream_events(request, lambda: self._is_leaving)

        async for event in self._stream("WatchEvents", open_stream, grpc_context):
            yield event

    async def Drain(  # noqa: N802
        self, request: cluster_pb.DrainRequest, grpc_context: RayContext
    ) -> AsyncGenerator[cluster_pb.DrainProgress, None]:
        """See ``ClusterService``."""
        async for message in self._stream(
            "Drain", lambda: self._cluster.stream_drain(request), grpc_context
        ):
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
        self,
        rpc: str,
        open_stream: Callable[[], AsyncGenerator[Event, None]],
        grpc_context: RayContext,
    ) -> AsyncGenerator[Event, None]:
        context, enter = ServeContext(grpc_context), partial(self._enter, rpc)
        context.set_trailing_metadata(
            [(REQUEST_ID_KEY, request_id_of(context.invocation_metadata()))]
        )
        try:
            async with refusing(context, enter), aclosing(open_stream()) as events:
                async for event in events:
                    yield event
        except grpc.aio.AbortError:
            if not self._ends_by_return:
                raise
