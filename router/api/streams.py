"""Resumable streams of one frontend: requests that run on, and are kept, without their client."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from weakref import WeakValueDictionary

from galerne.errors import GalerneError, InvalidRequestError, NotServingError
from router.api.answer import AnswerFacts
from router.api.errors import StreamLostError, StreamNotFoundError
from router.api.events import Event, PromptLogprobs, TokensDelta
from router.api.inputs import ApiLimits
from router.api.metrics import FrontendMetrics, RequestMeter
from router.api.run import Deadline, run_request
from router.api.split import one_by_one
from router.chat.tokenizer import Tokenizer
from router.engine.gateway_port import GatewayPort
from router.engine.request import GenerationRequest, Hold, TokenDelta, num_kept_of
from router.engine.stream_log import Parking, StreamLog

logger = logging.getLogger(__name__)


class ResumableStream:
    """A request with a hold: its events, token by token, and the task that gathers them."""

    def __init__(
        self, request: GenerationRequest, hold: Hold, facts: AnswerFacts, streams: Streams
    ) -> None:
        self.request = request
        self.owner = hold.owner
        self.facts = facts
        self.num_tokens = len(request.prompt_token_ids)
        self.log: StreamLog[Event] = StreamLog(
            request.request_id, lambda _has_reader: streams.reader_changed(self)
        )
        self.task: asyncio.Task[None] | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether a client had all of it."""
        return self.log.is_delivered

    def add(self, event: Event) -> None:
        """Keep one event more."""
        match event:
            case TokensDelta(token_ids=token_ids, logprobs=logprobs):
                self.num_tokens += len(token_ids) + num_kept_of(logprobs)
            case PromptLogprobs(positions=positions):
                self.num_tokens += num_kept_of(positions)
        self.log.append(event)


class Streams:
    """Begins, keeps, finds and forgets resumable streams. Belongs to one event loop."""

    def __init__(
        self,
        gateway: GatewayPort,
        tokenizer: Tokenizer,
        limits: ApiLimits,
        metrics: FrontendMetrics,
    ) -> None:
        self._gateway = gateway
        self._tokenizer = tokenizer
        self._limits = limits
        self._metrics = metrics
        self._started_s = metrics.clock.now_s()
        self._streams: dict[str, ResumableStream] = {}
        self._parking: dict[bytes, Parking[ResumableStream]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def num_unattended(self) -> int:
        """Requests that run without a client."""
        streams = self._streams.values()
        return sum(not s.log.is_closed and not s.log.has_reader for s in streams)

    def is_running(self, request_id: str) -> bool:
        """Whether the id belongs to a stream that has not ended."""
        stream = self._streams.get(request_id)
        return stream is not None and not stream.log.is_closed

    def owner_of(self, request_id: str) -> bytes | None:
        """Whose stream that is; None: it is not known here."""
        stream = self._streams.get(request_id)
        return None if stream is None else stream.owner

    def begin(
        self,
        request: GenerationRequest,
        hold: Hold,
        facts: AnswerFacts,
        meter: RequestMeter,
        deltas: AsyncGenerator[TokenDelta, None] | None = None,
        deadline: Deadline | None = None,
    ) -> ResumableStream:
        """Run a request with a hold, or follow ``deltas`` of one that runs; ``meter`` is taken.

        Only the frontend that took it knows of a ``deadline``: with it, that is forgotten.

        Raises:
            InvalidRequestError: The id is in use.
        """
        known = self._streams.get(request.request_id)
        if known is not None:
            if not known.log.is_closed or known.owner != hold.owner:
                raise InvalidRequestError("request_id", f"{request.request_id} is in use")
            self._remove(known)  # it has ended
        stream = ResumableStream(request, hold, facts, self)
        self._streams[request.request_id] = stream
        choices = facts.new_choices(request.sampling, self._tokenizer)
        source = one_by_one(deltas if deltas is not None else self._gateway.submit(request))
        events = run_request(self._gateway, request, choices, source, deadline)
        meter.is_detached = True
        stream.task = asyncio.create_task(self._gather(stream, events, meter))
        return stream

    async def find(self, request_id: str, owner: bytes, reached: str = "") -> ResumableStream:
        """A stream that is known here, or else at a gateway, for the client who made it.

        Args:
            request_id: The stream's.
            owner: ``ApiKeys.owner`` of the client.
            reached: Token offsets that the client has; only to be told.

        Raises:
            StreamNotFoundError: There is none, or it is another's.
            StreamLostError: It may have been lost with its frontend and gateway.
        """
        lock = self._locks.setdefault(request_id, asyncio.Lock())
        async with lock:  # of two clients the second finds what the first has brought
            stream = self._streams.get(request_id)
            if stream is None:
                stream = await self._fetch(request_id, owner, reached)
        if not hmac.compare_digest(stream.owner, owner):
            raise StreamNotFoundError(request_id)
        return stream

    def drop(self, stream: ResumableStream) -> None:
        """End a request at once, and keep nothing of it; one that is gone already is left alone."""
        if self._streams.get(stream.request.request_id) is not stream:
            return
        self._remove(stream)
        if not stream.is_delivered:
            ending = asyncio.create_task(self._end(stream))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        """Let go of all: clients are told, gateways keep what runs for its grace."""
        streams = list(self._streams.values())
        for stream in streams:
            self._remove(stream)
            stream.log.close(NotServingError("the frontend stops; the stream may be resumed"))
            if stream.task is not None:
                stream.task.cancel()
        tasks = [stream.task for stream in streams if stream.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def reader_changed(self, stream: ResumableStream) -> None:
        """A client has come to a stream, or left it."""
        if self._streams.get(stream.request.request_id) is not stream:
            return
        parking = self._parking_of(stream)
        if stream.log.has_reader:
            parking.leave(stream)
        else:
            parking.park(stream, self._limits.resume_grace_s)
        self._count_parked()

    async def _fetch(self, request_id: str, owner: bytes, reached: str) -> ResumableStream:
        try:
            held = await self._gateway.resume(request_id, owner)
        except NotServingError as error:
            raise StreamLostError(request_id, reached, error.reason) from error
        if held is None or held.request.hold is None:
            if self._metrics.clock.now_s() - self._started_s < self._limits.resume_grace_s:
                # Whoever lost a stream that could still be kept asks within the grace.
                reason = "the frontend has restarted, and no gateway keeps the stream"
                raise StreamLostError(request_id, reached, reason)
            raise StreamNotFoundError(request_id)
        hold = held.request.hold
        facts = AnswerFacts.decode(hold.context)
        meter = RequestMeter(self._metrics, facts.api, is_replay=True)
        meter.request_id = request_id
        stream = self.begin(held.request, hold, facts, meter, held.deltas)
        self.reader_changed(stream)  # it has none yet, and may never get one
        return stream

    async def _gather(
        self, stream: ResumableStream, events: AsyncGenerator[Event, None], meter: RequestMeter
    ) -> None:
        """Follow a request to its end, whoever listens."""
        try:
            async with aclosing(events):
                async for event in events:
                    meter.see(event)
                    stream.add(event)
                    if not stream.log.has_reader:
                        self._parking_of(stream).shrink()
            stream.log.close()
        except asyncio.CancelledError as error:
            meter.fail(error)
            raise
        except Exception as error:  # a border: the client, if there is one, gets it
            if not isinstance(error, GalerneError):
                logger.exception("stream_failed request=%s", stream.request.request_id)
            meter.fail(error)
            self._remove(stream)  # it was refused, or goes on elsewhere
            stream.log.close(error)
        finally:
            meter.close()

    async def _end(self, stream: ResumableStream) -> None:
        stream.log.close(StreamNotFoundError(stream.request.request_id))
        if stream.task is not None:
            stream.task.cancel()
            await asyncio.gather(stream.task, return_exceptions=True)
        await self._gateway.forget(stream.request.request_id)

    def _expire(self, stream: ResumableStream) -> None:
        """Its client has not come back, here. It may have gone to another frontend.

        That one has taken what runs, so what runs here is nobody's; what has ended may be there
        too, and gateways let go of it by themselves.
        """
        if stream.log.is_closed:
            self._remove(stream)
        else:
            self.drop(stream)

    def _remove(self, stream: ResumableStream) -> None:
        if self._streams.get(stream.request.request_id) is stream:
            del self._streams[stream.request.request_id]
            self._parking_of(stream).leave(stream)
            self._count_parked()

    def _parking_of(self, stream: ResumableStream) -> Parking[ResumableStream]:
        """That of its key."""
        limits, known = self._limits, self._parking.get(stream.owner)
        if known is None:
            bounds = limits.max_parked, limits.max_parked_tokens
            known = Parking(*bounds, self.drop, on_expired=self._expire)
            self._parking[stream.owner] = known
        return known

    def _count_parked(self) -> None:
        self._metrics.streams_parked.set(sum(map(len, self._parking.values())))
