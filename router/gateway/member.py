"""One gateway as a frontend sees it: its channel, its calls, and whether it still answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple

import grpc

from galerne.errors import (
    GalerneError,
    InvalidRequestError,
    NotServingError,
    RequestAbortedError,
)
from galerne.hello import SERVICE_OPTIONS, TOKEN_METADATA_KEY
from galerne.ids import GatewayId
from galerne.internal_tls import InternalTls, open_channel, version_of
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.stream_log import TakenOverError
from router.engine.trace_port import NO_ATTEMPT
from router.gateway.codec import decode_delta, decode_request, encode_request

CALL_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 1.5
MAX_MISSES = 2  # probes in a row that a gateway may leave unanswered
ACCEPTED = "galerne-accepted"  # initial metadata of a request that was taken

_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class GatewayOverloadedError(GalerneError):
    """A gateway's queue is full; its words."""

    status = "RESOURCE_EXHAUSTED"
    is_retryable = True

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.reason


class GatewayFailedError(GalerneError):
    """A gateway failed at a request; its words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"gateway: {self.reason}"


class GatewayLostError(NotServingError):
    """A gateway cannot be reached, or no longer; another may go on with what it ran."""

    def __init__(self, reason: str, was_running: bool) -> None:
        super().__init__(reason)
        self.args = (reason, was_running)
        self.was_running = was_running  # it had taken the request


class NotHeldError(GalerneError):
    """A gateway keeps no such request for that owner."""

    status = "NOT_FOUND"

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request {self.request_id} is not kept"


class HeldCall(NamedTuple):
    """A call that follows a request which a gateway has kept."""

    member: Member
    request: GenerationRequest
    events: AsyncGenerator[internal.ResumedEvent, None]

    async def deltas(self) -> AsyncGenerator[TokenDelta, None]:
        """From the first token on."""
        async with aclosing(self.events) as events:
            async for event in events:
                yield decode_delta(self.request.request_id, event.delta)


class Member:
    """One gateway: its channel and the requests it runs for us."""

    def __init__(
        self, gateway: str, address: str, cluster_token: str, tls: InternalTls | None = None
    ) -> None:
        self.gateway = GatewayId(gateway)
        self.address = address
        self.in_flight = 0
        self.num_misses = 0
        self._has_left = False
        self._metadata = ((TOKEN_METADATA_KEY, cluster_token),)
        self._calls: set[Any] = set()
        self._tls, self._tls_version = tls, version_of(tls)
        self._channel = open_channel(address, SERVICE_OPTIONS + _RECONNECT, tls)
        self._stub: Any = internal_pb2_grpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def submit(
        self, request: GenerationRequest, unwanted: Callable[[], Iterable[int]] = lambda: ()
    ) -> AsyncGenerator[TokenDelta, None]:
        """Run a request here; its deltas. Closing aborts it.

        ``unwanted``: choices that were aborted, perhaps before the gateway had the request.

        Raises:
            GatewayLostError: The gateway cannot be reached, or no longer.
            GalerneError: It refused the request.
        """
        attempt = NO_ATTEMPT
        if request.trace is not None:
            attempt = request.trace.attempt(self.gateway, self.address)
        metadata = (*self._metadata, *attempt.metadata)
        call = self._stub.Submit(encode_request(request), metadata=metadata)
        try:
            following = self._follow(call, request.request_id, unwanted)
            async with aclosing(following) as events:
                async for event in events:
                    if event.is_trace_kept:
                        attempt.kept_below()
                    yield decode_delta(request.request_id, event)
        except GalerneError as error:
            attempt.failed(str(error))
            raise
        finally:
            attempt.end()

    async def resume(self, request_id: str, owner: bytes) -> HeldCall:
        """Follow a request that this gateway keeps.

        Raises:
            NotHeldError: It keeps none for that owner.
            GatewayLostError: It cannot be reached.
            TimeoutError: It does not answer.
        """
        asked = internal.ResumeSubmittedRequest(request_id=request_id, owner=owner)
        call = self._stub.ResumeSubmitted(asked, metadata=self._metadata)
        events = self._follow(call, request_id, was_running=True)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                first = await anext(events)
        except StopAsyncIteration:
            raise GatewayLostError("the stream ended early", was_running=True) from None
        except BaseException:
            await events.aclose()
            raise
        return HeldCall(self, decode_request(first.submitted), events)

    async def _follow(
        self,
        call: Any,  # noqa: ANN401 - grpc's
        request_id: str,
        unwanted: Callable[[], Iterable[int]] = lambda: (),
        *,
        was_running: bool = False,
    ) -> AsyncGenerator[Any, None]:
        """Events of a call; ``was_running``: the gateway is known to have taken the request."""
        self.in_flight += 1
        self._calls.add(call)
        try:
            was_running = was_running or ACCEPTED in dict(await call.initial_metadata() or ())
            for choice in unwanted():  # the abort may have overtaken the request
                await self.abort(request_id, choice, None)
            async for event in call:
                yield event
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise GatewayLostError(error.details() or "", was_running=was_running) from error
            raise _error_of(error, request_id) from error
        except asyncio.CancelledError:
            if _is_to_end():
                raise
            raise GatewayLostError("the connection was given up", was_running=True) from None
        finally:
            self._calls.discard(call)
            call.cancel()
            self.in_flight -= 1
            await self.close_if_idle()

    async def abort(self, request_id: str, choice: int | None, owner: bytes | None) -> bool:
        """End a request, or one choice of it, if it is its owner's; whether it was running here.

        Raises:
            grpc.aio.AioRpcError: The gateway does not answer.
        """
        return await self._abort(
            internal.AbortSubmittedRequest(request_id=request_id, choice=choice, owner=owner)
        )

    async def forget(self, request_id: str) -> None:
        """End a request with a hold, and keep nothing of it.

        Raises:
            grpc.aio.AioRpcError: The gateway does not answer.
        """
        await self._abort(internal.AbortSubmittedRequest(request_id=request_id, forget=True))

    async def _abort(self, request: internal.AbortSubmittedRequest) -> bool:
        result: pb.AbortResult = await self._stub.AbortSubmitted(
            request, metadata=self._metadata, timeout=CALL_TIMEOUT_S
        )
        return bool(result.was_running)

    async def describe(self, timeout_s: float = CALL_TIMEOUT_S) -> internal.GatewayDescription:
        """What the gateway says of itself.

        Raises:
            grpc.aio.AioRpcError: It does not answer.
        """
        description: internal.GatewayDescription = await self._stub.DescribeGateway(
            internal.DescribeGatewayRequest(), metadata=self._metadata, timeout=timeout_s
        )
        return description

    async def probe(self) -> None:
        """Ask for a sign of life; counts those that did not come."""
        try:
            await self.describe(PROBE_TIMEOUT_S)
        except asyncio.CancelledError:
            if _is_to_end():
                raise
            self.num_misses += 1  # the channel was closed under it
        except (grpc.aio.AioRpcError, grpc.aio.UsageError):
            self.num_misses += 1
        else:
            self.num_misses = 0

    @property
    def is_outdated(self) -> bool:
        """Whether its channel was opened with certificates that were replaced since."""
        return version_of(self._tls) not in (None, self._tls_version)

    @property
    def is_suspect(self) -> bool:
        """Whether it has been silent for too long."""
        return self.num_misses >= MAX_MISSES

    def drop_calls(self) -> None:
        """Give up what runs here: it ends with ``GatewayLostError``."""
        for call in list(self._calls):
            call.cancel()

    async def leave(self) -> None:
        """Close when the last request has ended: off the roster is not yet dead."""
        self._has_left = True
        await self.close_if_idle()

    async def close_if_idle(self) -> None:
        """Close if it has left and nothing runs here."""
        if self._has_left and self.in_flight == 0:
            await self.close()

    async def close(self) -> None:
        """Give up the channel; what runs here ends with ``NotServingError``."""
        await self._channel.close()


def _is_to_end() -> bool:
    """Whether a CancelledError is for this task.

    grpc.aio raises it too, when the call or its channel was closed by others.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _error_of(error: grpc.aio.AioRpcError, request_id: str) -> GalerneError:
    """The error that the gateway meant by a status."""
    details = error.details() or ""
    retry_after = dict(error.trailing_metadata() or ()).get("retry-after")
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            field, _, problem = details.partition(": ")
            return InvalidRequestError(field, problem)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if retry_after is not None:
            return GatewayOverloadedError(details, float(retry_after))
        case grpc.StatusCode.NOT_FOUND:
            return NotHeldError(request_id)
        case grpc.StatusCode.ABORTED:
            return TakenOverError(request_id)
        case grpc.StatusCode.CANCELLED:
            return RequestAbortedError(request_id, details)
        case code:
            return GatewayFailedError(f"{code.name}: {details}")
