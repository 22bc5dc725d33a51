"""A request at a gateway, from the first delta to the usage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from galerne.errors import GalerneError, NotServingError, RequestAbortedError
from router.api.choices import Choice
from router.api.errors import RequestTimeoutError
from router.api.events import Accepted, EndReason, Event, PromptLogprobs, Usage
from router.engine.gateway_port import GatewayPort
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.stream_log import TakenOverError

logger = logging.getLogger(__name__)


class Deadline(NamedTuple):
    """When a request must be done."""

    timeout_s: float
    at_s: float  # of the event loop's clock


async def run_request(
    gateway: GatewayPort,
    request: GenerationRequest,
    choices: Sequence[Choice],
    deltas: AsyncGenerator[TokenDelta, None] | None = None,
    deadline: Deadline | None = None,
) -> AsyncGenerator[Event, None]:
    """Events of an admitted request; ``choices`` are its n answers, by index.

    ``deltas``: of the gateway that runs it already; unset: it is submitted. At the ``deadline`` it
    ends with ``RequestTimeoutError``, in the way of every other error.

    ``Accepted`` comes with the first delta, since only then it is certain that the gateway took
    the request. When every choice has ended, or the generator is closed, the gateway's stream is
    closed, which aborts what still runs.

    Raises:
        GalerneError: Before ``Accepted`` only; later, choices end with ``EndReason.ERROR``.
        TakenOverError: The request goes on at another frontend.
    """
    tally = _Tally(request, choices)
    failure: BaseException | None = None
    async with _closing(gateway, request, deltas or gateway.submit(request)) as stream:
        delta = await _next(gateway, request, stream, deadline)
        if delta is None:
            raise NotServingError("the gateway ended the stream before its first token")
        yield Accepted(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            seed=request.sampling.seed,
        )
        while delta is not None:
            for event in tally.take(delta):
                yield event
            if tally.is_done:
                if request.hold is not None and tally.is_running:
                    await gateway.abort(request.request_id)  # closing would only park it
                break
            if tally.is_to_abort(delta.choice):
                # A stop string ended it; the others go on. What still comes of it is dropped.
                await gateway.abort(request.request_id, delta.choice)
            try:
                delta = await _next(gateway, request, stream, deadline)
            except TakenOverError:
                raise
            except Exception as error:  # noqa: BLE001 - a border: the client gets one end per choice
                failure, delta = error, None
    for event in tally.end(failure):
        yield event
    yield tally.usage()


async def _next(
    gateway: GatewayPort,
    request: GenerationRequest,
    stream: AsyncIterator[TokenDelta],
    deadline: Deadline | None,
) -> TokenDelta | None:
    """The next delta, None at the end.

    Raises:
        RequestTimeoutError: It did not come before the deadline.
    """
    if deadline is None:
        return await anext(stream, None)
    limit = asyncio.timeout_at(deadline.at_s)
    try:
        async with limit:
            return await anext(stream, None)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if request.hold is not None:
            await gateway.abort(request.request_id)  # closing would only park it
        raise RequestTimeoutError(deadline.timeout_s) from error


@asynccontextmanager
async def _closing(
    gateway: GatewayPort, request: GenerationRequest, stream: AsyncIterator[TokenDelta]
) -> AsyncGenerator[AsyncIterator[TokenDelta], None]:
    try:
        yield stream
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
        else:  # an iterator that cannot be closed
            await gateway.abort(request.request_id)


class _Tally:
    """The choices of a request, and what it used."""

    def __init__(self, request: GenerationRequest, choices: Sequence[Choice]) -> None:
        self._request = request
        self._choices = choices
        self._num_cached = 0
        self._running = {choice.index for choice in choices}  # at the gateway
        self._aborted: set[int] = set()
        self._wants_prompt_logprobs = request.sampling.prompt_logprobs is not None

    @property
    def is_done(self) -> bool:
        return all(choice.is_ended for choice in self._choices)

    @property
    def is_running(self) -> bool:
        """Whether the gateway has not ended every choice."""
        return bool(self._running)

    def is_to_abort(self, choice: int) -> bool:
        """Whether a choice has ended here but not at the gateway; says so once."""
        if not self._choices[choice].is_ended:
            return False
        if choice not in self._running or choice in self._aborted:
            return False
        self._aborted.add(choice)
        return True

    def take(self, delta: TokenDelta) -> list[Event]:
        if delta.finish_reason is not None:
            self._running.discard(delta.choice)
        if delta.choice == 0:  # the others also find what this one has computed
            self._num_cached = max(self._num_cached, delta.num_cached_tokens)
        events: list[Event] = []
        if self._wants_prompt_logprobs and delta.prompt_logprobs:
            self._wants_prompt_logprobs = False
            num_known = len(self._request.prompt_token_ids) - 1  # nothing precedes the first token
            positions = tuple(delta.prompt_logprobs)[-num_known:] if num_known else ()
            events.append(PromptLogprobs(positions=positions))
        return [*events, *self._choices[delta.choice].push(delta)]

    def end(self, failure: BaseException | None) -> list[Event]:
        """One end for each choice that has none."""
        if self.is_done:
            return []
        reason, error, status = EndReason.ERROR, "internal error", "INTERNAL"
        match failure:
            case RequestAbortedError():
                reason, error = EndReason.ABORT, ""
            case GalerneError():
                error, status = str(failure), failure.status
            case None:
                error, status = "the gateway ended the stream early", "UNAVAILABLE"
        if reason is EndReason.ERROR and not isinstance(failure, RequestTimeoutError):
            request_id = self._request.request_id
            logger.error("request_failed request=%s", request_id, exc_info=failure)
        return [e for choice in self._choices for e in choice.end(reason, error, status)]

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._request.prompt_token_ids),
            completion_tokens=sum(choice.num_tokens for choice in self._choices),
            cached_tokens=self._num_cached,
            reasoning_tokens=sum(choice.num_reasoning_tokens for choice in self._choices),
        )
