"""Requests that outlive their call: kept at their gateway for a frontend that comes back."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from galerne.errors import NotServingError, RequestAbortedError
from router.engine.engine import Engine
from router.engine.guide import Guide
from router.engine.request import FinishReason, GenerationRequest, Hold, TokenDelta
from router.engine.stream_log import Parking, StreamLog

GuidesOf = Callable[[GenerationRequest], Awaitable[Sequence[Guide]]]

# Of one gateway. Frontends have lower bounds for every key; these hold when frontends are lost.
MAX_PARKED = 1024
MAX_PARKED_TOKENS = 1 << 19  # about 100 MB


class HeldRequest:
    """One request with a hold: all that it has given out, and how many choices are open."""

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        hold: Hold,
        on_reader: Callable[[HeldRequest], None],
    ) -> None:
        """``on_reader`` is called whenever a call comes to it or leaves it."""
        self.engine = engine
        self.hold = hold._replace(history=())
        self.request = replace(request, resumed=(), hold=self.hold)  # as first submitted
        self.num_tokens = len(request.prompt_token_ids)
        self.is_forgotten = False
        self.log: StreamLog[TokenDelta] = StreamLog(
            request.request_id, lambda _has_reader: on_reader(self)
        )
        self._num_open = request.sampling.n
        for delta in hold.history:
            self.take(delta)

    @property
    def is_running(self) -> bool:
        """Whether the engine still has a choice of it."""
        return self._num_open > 0

    @property
    def is_delivered(self) -> bool:
        """Whether a frontend had all of it."""
        return self.log.is_delivered

    def check_wanted(self) -> None:
        """Raises RequestAbortedError if it was forgotten before the engine heard of it."""
        if self.is_forgotten:
            raise RequestAbortedError(self.request.request_id, "nobody wants it any more")

    def take(self, delta: TokenDelta) -> None:
        """Keep what the engine, or an earlier gateway, has given out."""
        self.num_tokens += delta.num_kept
        self._num_open -= delta.finish_reason is not None
        if self.engine.is_closed and delta.finish_reason is FinishReason.ABORT:
            self.log.close(NotServingError("the gateway stops"))
        self.log.append(delta)
        if not self.is_running:
            self.log.close()


class HeldRequests:
    """All requests with a hold at one gateway. Lives on the event loop of its calls."""

    def __init__(
        self, max_parked: int = MAX_PARKED, max_parked_tokens: int = MAX_PARKED_TOKENS
    ) -> None:
        self._held: dict[str, HeldRequest] = {}
        self._parking: Parking[HeldRequest] = Parking(max_parked, max_parked_tokens, self._forget)

    def __contains__(self, request_id: str) -> bool:
        """Whether the id is in use: what has ended gives way to a successor."""
        held = self._held.get(request_id)
        return held is not None and held.is_running

    @property
    def num_parked(self) -> int:
        """Requests that wait for a client to come back. From any thread."""
        return len(self._parking)

    def find(self, request_id: str, owner: bytes) -> HeldRequest | None:
        """What is kept of a request for that owner."""
        held = self._held.get(request_id)
        if held is None or held.is_forgotten:
            return None
        return held if hmac.compare_digest(held.hold.owner, owner) else None

    def put(self, delta: TokenDelta) -> None:
        """Take a delta of the engine, if it belongs here."""
        held = self._held.get(delta.request_id)
        if held is not None:
            held.take(delta)
            if not held.log.has_reader:
                self._parking.shrink()

    async def stream(
        self,
        engine: Engine,
        request: GenerationRequest,
        hold: Hold,
        guides_of: GuidesOf,
        on_accepted: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[TokenDelta, None]:
        """Submit and follow a request, whose id is free; closing parks it.

        Raises:
            OverloadedError, InvalidRequestError: It was not admitted.
            RequestAbortedError: It was forgotten before the engine heard of it.
            TakenOverError: Another call has it now.
            NotServingError: The gateway stops before its end.
        """
        self.forget(request.request_id)
        held = HeldRequest(engine, request, hold, self._reader_changed)
        self._held[request.request_id] = held
        try:
            guides = await guides_of(request)
            held.check_wanted()
            await asyncio.wrap_future(engine.submit(replace(request, hold=None, owner=b""), guides))
            await on_accepted()
        except BaseException:
            self._forget(held)  # a call that broke meanwhile may have been admitted
            raise
        async with aclosing(held.log.read(len(hold.history))) as deltas:
            async for delta in deltas:
                yield delta

    def forget(self, request_id: str) -> None:
        """End a request at once, and keep nothing of it."""
        held = self._held.get(request_id)
        if held is not None:
            self._forget(held)

    def close(self) -> None:
        """Wait for nobody any more."""
        self._parking.clear()

    def _reader_changed(self, held: HeldRequest) -> None:
        if held.log.has_reader or held.is_forgotten:
            self._parking.leave(held)
        else:
            self._parking.park(held, held.hold.grace_s)

    def _forget(self, held: HeldRequest) -> None:
        if held.is_forgotten:
            return
        held.is_forgotten = True
        self._parking.leave(held)
        held.log.close(RequestAbortedError(held.request.request_id, "nobody came back for it"))
        if not held.is_running:
            self._drop(held)
            return
        # Its id stays in use until the engine has ended it, so that a successor does not hear its
        # last words: they go through the same loop before this call-back.
        loop = asyncio.get_running_loop()
        held.engine.abort(held.request.request_id).add_done_callback(
            lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._drop, held)
        )

    def _drop(self, held: HeldRequest) -> None:
        if self._held.get(held.request.request_id) is held:
            del self._held[held.request.request_id]
