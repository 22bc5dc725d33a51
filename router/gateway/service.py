"""``GatewayService``: the engine behind the cluster's internal listener."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from galerne.errors import GalerneError, NotServingError, UnauthenticatedError
from galerne.hello import check_token
from galerne.ids import Epoch
from galerne.topology_codec import decode_topology
from galerne.v1 import inference_pb2, internal_pb2_grpc
from galerne.v1 import internal_pb2 as internal
from router.engine.engine import Engine
from router.engine.guide import Guide
from router.engine.request import FinishReason, GenerationRequest, TokenDelta
from router.gateway.adapters import GatewayAdapters
from router.gateway.codec import decode_request, encode_delta, encode_request
from router.gateway.member import ACCEPTED
from router.gateway.parked import GuidesOf, HeldRequests
from router.gateway.switch import TopologySwitch
from router.tracing.gateway import GatewayTracer
from shards.adapters.messages import adapter_report, decode_adapter

_T = TypeVar("_T")
_TAKE_OVER_S = 5.0
_TAKE_OVER_POLL_S = 0.01


async def _no_guides(_: GenerationRequest) -> Sequence[Guide]:
    return ()


class DeltaHub:
    """Carries deltas from the engine's thread to the streams of one event loop."""

    def __init__(self, guides_of: GuidesOf = _no_guides) -> None:
        """``guides_of`` makes what a request with rules needs, before the engine hears of it."""
        self.held = HeldRequests()
        self._guides_of = guides_of
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[str, asyncio.Queue[TokenDelta]] = {}
        self._owners: dict[str, bytes] = {}  # of requests that end with their call
        # Choices (None: all) of requests that the engine does not have yet, to be ended then.
        self._early: dict[str, list[int | None]] = {}

    def belongs(self, request_id: str, owner: bytes) -> bool:
        """Whether that one made a request."""
        known = self._owners.get(request_id)
        if known is None:
            return self.held.find(request_id, owner) is not None
        return hmac.compare_digest(known, owner)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop whose streams wait for deltas; before it is known none can be waiting."""
        self._loop = loop

    def publish(self, deltas: Sequence[TokenDelta]) -> None:
        """Called on the engine's thread, once a step: one wake-up for all of them."""
        if deltas and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, deltas)

    def _put(self, deltas: Sequence[TokenDelta]) -> None:
        for delta in deltas:
            waiting = self._queues.get(delta.request_id)
            if waiting is not None:
                waiting.put_nowait(delta)
            else:
                self.held.put(delta)

    async def stream(
        self,
        engine: Engine,
        request: GenerationRequest,
        on_accepted: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[TokenDelta, None]:
        """Submit and follow a request until its last choice ends; closing aborts it.

        One with a hold is parked instead, see ``HeldRequests``.

        Raises:
            OverloadedError, InvalidRequestError: It was not admitted.
            NotServingError: The gateway stops before its end.
        """
        if request.resumed:
            await self._take_over(engine, request.request_id)
        if self._is_used(request.request_id):
            if request.resumed:
                raise NotServingError("its earlier run here has not ended yet")
            raise UnusableRequestIdError(request.request_id)
        early: list[int | None] = []
        self._early[request.request_id] = early

        async def accepted() -> None:
            self._end_early(engine, request.request_id, early)
            await on_accepted()

        if request.hold is None:
            stream = self._stream(engine, request, accepted)
        else:
            stream = self.held.stream(engine, request, request.hold, self._guides_of, accepted)
        try:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._end_early(engine, request.request_id, early)

    def abort(self, engine: Engine, request_id: str, choice: int | None = None) -> Future[bool]:
        """End a request, or one choice of it; whether it was running, or is about to."""
        early = self._early.get(request_id)
        aborted = engine.abort(request_id, choice)
        if early is None:
            return aborted
        early.append(choice)
        was_coming: Future[bool] = Future()
        was_coming.set_result(True)
        return was_coming

    def _end_early(self, engine: Engine, request_id: str, early: list[int | None]) -> None:
        """The engine has the request now, or will never have it."""
        if self._early.get(request_id) is early:
            del self._early[request_id]
            for choice in early:
                engine.abort(request_id, choice)

    async def _stream(
        self,
        engine: Engine,
        request: GenerationRequest,
        on_accepted: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[TokenDelta, None]:
        self.held.forget(request.request_id)  # it has ended
        deltas: asyncio.Queue[TokenDelta] = asyncio.Queue()
        self._queues[request.request_id] = deltas
        self._owners[request.request_id] = request.owner
        open_choices = len(request.open_choices)
        try:
            guides = await self._guides_of(request)
            await asyncio.wrap_future(engine.submit(replace(request, owner=b""), guides))
            await on_accepted()
            while open_choices:
                delta = await deltas.get()
                if engine.is_closed and delta.finish_reason is FinishReason.ABORT:
                    raise NotServingError("the gateway stops")
                open_choices -= delta.finish_reason is not None
                yield delta
        finally:
            self._owners.pop(request.request_id, None)
            if open_choices:
                self._release_after(engine.abort(request.request_id), request.request_id)
            else:
                del self._queues[request.request_id]

    async def _take_over(self, engine: Engine, request_id: str) -> None:
        """Wait for the end of an earlier stream of this request, which its frontend gave up."""
        self.held.forget(request_id)
        if request_id in self._queues:
            await asyncio.wrap_future(engine.abort(request_id))
        for _ in range(int(_TAKE_OVER_S / _TAKE_OVER_POLL_S)):
            if not self._is_used(request_id):
                return
            await asyncio.sleep(_TAKE_OVER_POLL_S)

    def _is_used(self, request_id: str) -> bool:
        return request_id in self._queues or request_id in self.held

    def _release_after(self, aborted: Future[bool], request_id: str) -> None:
        """Keep the id until the engine has ended it, so that no successor hears its last words.

        The abort's deltas go through the same loop before this call-back.
        """

        def release(_: Future[bool]) -> None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._queues.pop, request_id, None)

        aborted.add_done_callback(release)


class UnusableRequestIdError(GalerneError):
    """Another running request has this id."""

    status = "INVALID_ARGUMENT"

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request_id: {self.request_id} is in use by a running request"


Context = grpc.aio.ServicerContext[Any, Any]


class GatewayServicer(internal_pb2_grpc.GatewayServiceServicer):
    """The internal service of one gateway."""

    def __init__(
        self,
        engine: Engine,
        hub: DeltaHub,
        cluster_token: str,
        describe: Callable[[internal.DescribeGatewayRequest], internal.GatewayDescription],
        switch: TopologySwitch,
        adapters: GatewayAdapters,
        tracer: GatewayTracer | None = None,
    ) -> None:
        """``describe`` is called on the event loop and must not block.

        ``tracer``: which hears of the engine too; None: nothing is traced.
        """
        self._engine = engine
        self._hub = hub
        self._token = cluster_token
        self._describe = describe
        self._switch = switch
        self._adapters = adapters
        self._tracer = tracer
        self._changes = ThreadPoolExecutor(1, "changes")  # one at a time, also when a caller left

    async def Submit(
        self, request: internal.SubmitRequest, context: Context
    ) -> AsyncIterator[internal.SubmitEvent]:
        """Run a request; its deltas."""
        await self._authenticate(context)

        async def accepted() -> None:
            await context.send_initial_metadata(((ACCEPTED, "1"),))

        decoded, trace = decode_request(request), None
        if self._tracer is not None:
            trace = self._tracer.join(decoded, context.invocation_metadata())
        try:
            stream = self._hub.stream(self._engine, decoded, accepted)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    event = encode_delta(delta)
                    event.is_trace_kept = trace is not None and bool(trace.kept)
                    yield event
        except GalerneError as error:
            await _refuse(context, error)
        finally:
            if self._tracer is not None and trace is not None:
                self._tracer.leave(trace)

    async def AbortSubmitted(
        self, request: internal.AbortSubmittedRequest, context: Context
    ) -> inference_pb2.AbortResult:
        """End a running request, or one choice of it."""
        await self._authenticate(context)
        choice = request.choice if request.HasField("choice") else None
        if request.HasField("owner") and not self._hub.belongs(request.request_id, request.owner):
            return inference_pb2.AbortResult(was_running=False)
        aborted = self._hub.abort(self._engine, request.request_id, choice)
        was_running = await asyncio.wrap_future(aborted)
        if request.forget:
            self._hub.held.forget(request.request_id)
        return inference_pb2.AbortResult(was_running=was_running)

    async def ResumeSubmitted(
        self, request: internal.ResumeSubmittedRequest, context: Context
    ) -> AsyncIterator[internal.ResumedEvent]:
        """All that a request with a hold has given out, then what it still gives."""
        await self._authenticate(context)
        held = self._hub.held.find(request.request_id, request.owner)
        if held is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not kept here")
        try:
            yield internal.ResumedEvent(submitted=encode_request(held.request))
            async with aclosing(held.log.read()) as deltas:
                async for delta in deltas:
                    yield internal.ResumedEvent(delta=encode_delta(delta))
        except GalerneError as error:
            await _refuse(context, error)

    async def DescribeGateway(
        self, request: internal.DescribeGatewayRequest, context: Context
    ) -> internal.GatewayDescription:
        """Facts, load, links and metrics."""
        await self._authenticate(context)
        return self._describe(request)

    async def PrepareTopology(
        self, request: internal.PrepareTopologyRequest, context: Context
    ) -> internal.TopologyReport:
        """Have a topology ready beside the one that serves."""
        switch = self._switch
        return await self._change(
            context, lambda: switch.prepare(decode_topology(request.topology), request.timeout_s)
        )

    async def ShadowTopology(
        self, request: internal.EpochRequest, context: Context
    ) -> internal.TopologyReport:
        """Compare the bits of the prepared topology with those of the one that serves."""
        return await self._change(context, lambda: self._switch.shadow(Epoch(request.epoch)))

    async def CommitTopology(
        self, request: internal.EpochRequest, context: Context
    ) -> internal.TopologyReport:
        """Serve the prepared topology."""
        has_left = threading.Event()
        try:
            return await self._change(
                context, lambda: self._switch.commit(Epoch(request.epoch), has_left)
            )
        except asyncio.CancelledError:
            has_left.set()
            raise

    async def AbortTopology(
        self, request: internal.EpochRequest, context: Context
    ) -> internal.TopologyReport:
        """Forget the prepared topology."""
        await self._authenticate(context)
        self._switch.unwant(Epoch(request.epoch))  # at once: a preparation may be going on
        return await self._change(context, lambda: self._switch.abort(Epoch(request.epoch)))

    async def LoadAdapter(
        self, request: internal.LoadAdapterRequest, context: Context
    ) -> internal.AdapterReport:
        """Serve requests of an adapter from now on."""
        wanted = decode_adapter(request.adapter)
        adapter, _ = await self._in_turn(context, lambda: self._adapters.load(wanted))
        return adapter_report(adapter)

    async def UnloadAdapter(
        self, request: internal.UnloadAdapterRequest, context: Context
    ) -> internal.AdapterReport:
        """Forget an adapter when nobody uses it."""
        await self._in_turn(context, lambda: self._adapters.unload(request.id, request.deadline_s))
        return internal.AdapterReport(id=request.id)

    async def _change(
        self, context: Context, what: Callable[[], int | None]
    ) -> internal.TopologyReport:
        """``what`` may give the number of rows that it has compared."""
        num_rows, seconds = await self._in_turn(context, what)
        return internal.TopologyReport(
            epoch=self._switch.topology.epoch,
            rows_compared=num_rows or 0,
            seconds=seconds,
        )

    async def _in_turn(self, context: Context, what: Callable[[], _T]) -> tuple[_T, float]:
        """Change something when earlier changes are done; what comes of it, and seconds."""
        await self._authenticate(context)
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._changes, what)
        except GalerneError as error:
            await _refuse(context, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the engine is in a step")
        return result, time.monotonic() - started

    async def _authenticate(self, context: Context) -> None:
        try:
            check_token(context.invocation_metadata(), self._token)
        except UnauthenticatedError as error:
            await _refuse(context, error)


async def _refuse(context: Context, error: GalerneError) -> None:
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        context.set_trailing_metadata((("retry-after", f"{retry_after_s:g}"),))
    await context.abort(grpc.StatusCode[error.status], str(error))
