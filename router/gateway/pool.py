"""All gateways as one ``GatewayPort``: finds them, picks one per request, follows its stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from galerne.errors import (
    GalerneError,
    InvalidRequestError,
    NotServingError,
    RequestAbortedError,
)
from galerne.hello import SERVICE_OPTIONS, TOKEN_METADATA_KEY
from galerne.ids import GatewayId
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from router.engine.gateway_port import ClusterFacts, GatewayLoad, ModelFacts, PartFacts
from router.engine.request import GenerationRequest, TokenDelta
from router.gateway.choose import choose_gateway
from router.gateway.codec import decode_delta, decode_facts, decode_load, encode_request

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
REFRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who serves, as the controller knows it."""

    mode: str = ""
    epoch: int = 0
    transport: str = ""
    micro_batches: int = 1
    max_num_seqs: int = 0
    max_batched_tokens: int = 0
    parts: tuple[PartFacts, ...] = ()  # with more than addresses when asked for with metrics
    is_settled: bool = True  # false while a restarted controller may not know everyone yet
    gateways: dict[str, str] = field(default_factory=dict)  # id -> address
    shards: dict[str, str] = field(default_factory=dict)
    process_metrics: dict[str, bytes] = field(default_factory=dict)


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


class Directory(Protocol):
    """Where to ask for the roster. Errors are the caller's: the last roster is kept."""

    async def roster(self, *, with_metrics: bool = False) -> Roster:
        """The roster now."""
        ...


class _Member:
    """One gateway: its channel and the requests it runs for us."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.in_flight = 0
        self._has_left = False
        self._channel = grpc.aio.insecure_channel(address, options=SERVICE_OPTIONS)
        self.stub: Any = internal_pb2_grpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def leave(self) -> None:
        """Close when the last request has ended: off the roster is not yet dead."""
        self._has_left = True
        await self.close_if_idle()

    async def close_if_idle(self) -> None:
        if self._has_left and self.in_flight == 0:
            await self.close()

    async def close(self) -> None:
        await self._channel.close()


class GatewayPool:
    """Implements ``GatewayPort`` over ``GatewayService``. Lives on one event loop."""

    def __init__(self, directory: Directory, cluster_token: str) -> None:
        self._directory = directory
        self._metadata = ((TOKEN_METADATA_KEY, cluster_token),)
        self._members: dict[GatewayId, _Member] = {}
        self._aside: set[_Member] = set()  # could not be reached since the last roster
        self._owner: dict[str, _Member] = {}
        self._roster = Roster()
        self._refresh_lock = asyncio.Lock()
        self._model: ModelFacts | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._started_s = time.monotonic()

    async def start(self, timeout_s: float) -> None:
        """Find a gateway and learn the model; then keep the roster fresh in the background.

        Raises:
            NotServingError: No gateway answered in time.
        """
        deadline = time.monotonic() + timeout_s
        while self._model is None:
            with contextlib.suppress(GalerneError, grpc.aio.AioRpcError, OSError):
                await self.refresh()
                self._model = decode_facts((await self._describe_any()).model)
                break
            if time.monotonic() > deadline:
                raise NotServingError(f"no gateway answered in {timeout_s:g} s")
            await asyncio.sleep(0.1)
        self._refreshing = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """End the background task and the channels."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        for member in {*self._members.values(), *self._owner.values(), *self._aside}:
            await member.close()

    @property
    def model(self) -> ModelFacts:
        """What is served."""
        assert self._model is not None, "start() was not awaited"
        return self._model

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See ``GatewayPort.submit``."""
        while True:
            member = self._pick(request)
            has_begun = False
            try:
                async with aclosing(self._follow_request(member, request)) as deltas:
                    async for delta in deltas:
                        has_begun = True
                        yield delta
            except NotServingError:
                if has_begun or not self._set_aside(member):
                    raise
                logger.info("gateway_passed_over address=%s", member.address)
            else:
                return

    def _set_aside(self, member: _Member) -> bool:
        """Leave out a gateway that cannot be reached, till the next roster names it; False if it
        is the last one.
        """
        left = {g: m for g, m in self._members.items() if m is not member}
        if left:
            self._members = left
            self._aside.add(member)
        return bool(left)

    async def _follow_request(
        self, member: _Member, request: GenerationRequest
    ) -> AsyncGenerator[TokenDelta, None]:
        member.in_flight += 1
        self._owner[request.request_id] = member
        call = member.stub.Submit(encode_request(request), metadata=self._metadata)
        try:
            async for event in call:
                yield decode_delta(request.request_id, event)
        except grpc.aio.AioRpcError as error:
            raise _error_of(error, request.request_id) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # grpc.aio says so when the channel was closed under the call.
            raise NotServingError("the connection to the gateway was closed") from None
        finally:
            call.cancel()
            member.in_flight -= 1
            del self._owner[request.request_id]
            await member.close_if_idle()

    async def abort(self, request_id: str, choice: int | None = None) -> bool:
        """See ``GatewayPort.abort``; asks every gateway, for another frontend may have sent it."""
        owner = self._owner.get(request_id)
        members = [owner] if owner is not None else list(self._members.values())
        calls = [
            member.stub.AbortSubmitted(
                internal.AbortSubmittedRequest(request_id=request_id, choice=choice),
                metadata=self._metadata,
                timeout=CALL_TIMEOUT_S,
            )
            for member in members
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return any(isinstance(r, pb.AbortResult) and r.was_running for r in results)

    async def abort_all(self) -> None:
        """End every request that was submitted here; each ends with ``FinishReason.ABORT``."""
        await asyncio.gather(*(self.abort(request_id) for request_id in list(self._owner)))

    async def load(self) -> GatewayLoad:
        """See ``GatewayPort.load``."""
        loads = [decode_load(d.load) for d in await self.describe_all()]
        names = GatewayLoad.__slots__
        return GatewayLoad(**{name: sum(getattr(load, name) for load in loads) for name in names})

    async def cluster(self) -> ClusterFacts:
        """See ``GatewayPort.cluster``."""
        with contextlib.suppress(Exception):  # the last roster is kept
            await self.refresh(with_metrics=True)
        roster = self._roster
        return ClusterFacts(
            mode=roster.mode,
            epoch=roster.epoch,
            transport=roster.transport,
            micro_batches=roster.micro_batches,
            max_num_seqs=roster.max_num_seqs,
            max_batched_tokens=roster.max_batched_tokens,
            gateways=sorted(roster.gateways),
            shards=sorted(roster.shards),
            uptime_s=time.monotonic() - self._started_s,
            parts=roster.parts,
            process_metrics=roster.process_metrics,
        )

    async def unready_reason(self) -> str | None:
        """Ready while one gateway is, and while the roster loop moves."""
        if self._refreshing is None or self._refreshing.done():
            return "the roster loop is not running"
        descriptions = await self.describe_all()
        if not descriptions:
            return "no gateway answers"
        reasons = [d.unready_reason for d in descriptions]
        return None if "" in reasons else "; ".join(reasons)

    async def describe_all(self) -> list[Any]:
        """What every gateway that answers says of itself."""
        calls = [self._describe(member) for member in self._members.values()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [r for r in results if isinstance(r, internal.GatewayDescription)]

    async def refresh(self, *, with_metrics: bool = False) -> None:
        """Ask for the roster; open and close channels as gateways come, move and go."""
        roster = await self._directory.roster(with_metrics=with_metrics)
        async with self._refresh_lock:
            if self._members and not roster.is_settled:
                return  # the controller has restarted and does not know everyone yet
            self._roster = roster
            await self._follow({GatewayId(g): a for g, a in roster.gateways.items()})

    async def _follow(self, wanted: Mapping[GatewayId, str]) -> None:
        for gateway, member in list(self._members.items()):
            if wanted.get(gateway) != member.address:
                logger.info("gateway_left gateway=%s address=%s", gateway, member.address)
                del self._members[gateway]
                await member.leave()
        aside, self._aside = self._aside, set()
        for member in aside:  # a new channel is made for it below, if it is still on the roster
            await member.leave()
        for gateway, address in wanted.items():
            if gateway not in self._members:
                logger.info("gateway_joined gateway=%s address=%s", gateway, address)
                self._members[gateway] = _Member(address)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await asyncio.wait_for(self.refresh(), CALL_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - border: the controller may be away
                logger.warning("roster_refresh_failed reason=%s", error)

    def _pick(self, request: GenerationRequest) -> _Member:
        in_flight = {gateway: member.in_flight for gateway, member in self._members.items()}
        if not in_flight:
            raise NotServingError("no gateway lives")
        chosen = choose_gateway(in_flight, request.prompt_token_ids, request.cache_salt)
        return self._members[chosen]

    async def _describe_any(self) -> Any:  # noqa: ANN401 - generated stubs are untyped
        members: Sequence[_Member] = list(self._members.values())
        if not members:
            raise NotServingError("no gateway is known")
        return await self._describe(members[0])

    async def _describe(self, member: _Member) -> Any:  # noqa: ANN401
        return await member.stub.DescribeGateway(
            internal.DescribeGatewayRequest(),
            metadata=self._metadata,
            timeout=CALL_TIMEOUT_S,
        )


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
        case grpc.StatusCode.CANCELLED:
            return RequestAbortedError(request_id, details)
        case grpc.StatusCode.UNAVAILABLE:
            return NotServingError(f"gateway: {details}")
        case code:
            return GatewayFailedError(f"{code.name}: {details}")
