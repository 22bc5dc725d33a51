"""All gateways as one ``GatewayPort``: finds them, picks one per request, follows its stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial

import grpc

from galerne.adapters import AdapterInfo
from galerne.errors import GalerneError, NotServingError
from galerne.ids import GatewayId
from galerne.internal_tls import InternalTls
from galerne.v1 import internal_pb2 as internal
from router.engine.gateway_port import ClusterFacts, GatewayLoad, HeldStream, ModelFacts
from router.engine.request import GenerationRequest, TokenDelta
from router.gateway.choose import choose_gateway
from router.gateway.codec import decode_facts, decode_load
from router.gateway.member import (
    CALL_TIMEOUT_S,
    GatewayFailedError,
    GatewayLostError,
    HeldCall,
    Member,
    NotHeldError,
)
from router.gateway.roster import Directory, Roster
from router.gateway.stream_record import StreamGapError, StreamRecord

logger = logging.getLogger(__name__)

REFRESH_S, PROBE_S = 1.0, 0.5
FAILOVER_WAIT_S, WAKE_WAIT_S = 60.0, 900.0
_FAILOVER_POLL_S = 0.1


class GatewayPool:
    """Implements ``GatewayPort`` over ``GatewayService``. Lives on one event loop."""

    def __init__(
        self,
        directory: Directory,
        cluster_token: str,
        failover_wait_s: float = FAILOVER_WAIT_S,
        on_stream_moved: Callable[[], None] = lambda: None,
        create_member: Callable[[GatewayId, str, str], Member] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        wake_wait_s: float = WAKE_WAIT_S,
        tls: InternalTls | None = None,
    ) -> None:
        """``failover_wait_s``: how long a stream waits for a gateway when the last one is lost.

        ``wake_wait_s``: the same where the cluster has scaled to zero, and loads the model anew.
        """
        self._create_member = create_member or partial(Member, tls=tls)
        self._now_s = now_s
        self._directory = directory
        self._token = cluster_token
        self._failover_wait_s = failover_wait_s
        self._wake_wait_s = wake_wait_s
        self.num_held = 0  # streams that wait for a gateway
        self._is_wanted = asyncio.Event()
        self._members: dict[GatewayId, Member] = {}
        self._aside: dict[GatewayId, Member] = {}  # lost; back when they answer again
        self._owner: dict[str, Member] = {}
        self._records: dict[str, StreamRecord] = {}
        self._roster = Roster()
        self.adapters: Sequence[AdapterInfo] = ()
        self._refresh_lock = asyncio.Lock()
        self._model: ModelFacts | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._started_s = now_s()
        self._is_closed = False
        self._given_up = ""  # why nothing is served any more
        self._on_stream_moved = on_stream_moved
        self.num_turns = {"roster": 0, "probe": 0}  # of the loops, for those who watch them

    async def start(self, timeout_s: float) -> None:
        """Find a gateway and learn the model; then keep the roster fresh in the background.

        Raises:
            NotServingError: No gateway answered in time.
        """
        deadline = self._now_s() + timeout_s
        while self._model is None:
            with suppress(GalerneError, grpc.aio.AioRpcError, OSError):
                await self.refresh()
                if self._roster.pause:
                    await self._directory.demand(1)
                if self._members:
                    told = await next(iter(self._members.values())).describe()
                    self._model = decode_facts(told.model)
                    break
            if self._now_s() > deadline:
                raise NotServingError(f"no gateway answered in {timeout_s:g} s")
            await asyncio.sleep(0.1)
        self._loops = [
            asyncio.create_task(self._keep_fresh()),
            asyncio.create_task(self._keep_probing()),
        ]

    async def close(self) -> None:
        """End the background tasks and the channels."""
        self._is_closed = True
        for loop in self._loops:
            loop.cancel()
        for member in {*self._members.values(), *self._owner.values(), *self._aside.values()}:
            await member.close()

    @property
    def model(self) -> ModelFacts:
        """What is served."""
        assert self._model is not None, "start() was not awaited"
        return self._model

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See ``GatewayPort.submit``. A gateway that is lost costs a pause, no token."""
        if not self._members and not self._roster.pause:
            raise NotServingError("no gateway lives")
        async with aclosing(self._follow_all(StreamRecord(request))) as deltas:
            async for delta in deltas:
                yield delta

    async def resume(self, request_id: str, owner: bytes) -> HeldStream | None:
        """See ``GatewayPort.resume``; asks every gateway, those that are silent too."""
        members = [*self._members.values(), *self._aside.values()]
        if not members:
            raise NotServingError("no gateway lives")
        calls = [member.resume(request_id, owner) for member in members]
        results = await asyncio.gather(*calls, return_exceptions=True)
        held = [result for result in results if isinstance(result, HeldCall)]
        if not held:
            silent = [r for r in results if not isinstance(r, NotHeldError)]
            if silent:
                raise NotServingError(f"{len(silent)} of {len(members)} gateways do not answer")
            return None
        first, *others = held  # more than one after a move: their tokens are the same
        for other in others:
            await other.events.aclose()
            with suppress(grpc.aio.AioRpcError):  # it ends there with its grace
                await other.member.forget(request_id)
        record = StreamRecord(first.request)
        return HeldStream(request=first.request, deltas=self._follow_all(record, first))

    async def forget(self, request_id: str) -> None:
        """See ``GatewayPort.forget``."""
        calls = [member.forget(request_id) for member in self._members.values()]
        await asyncio.gather(*calls, return_exceptions=True)  # where it fails the grace ends it

    async def _follow_all(
        self, record: StreamRecord, held: HeldCall | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Follow a request to its end, from ``held`` on if a gateway has it already."""
        request_id = record.request.request_id
        self._records[request_id] = record
        try:
            while not record.is_done:
                async with aclosing(self._follow_once(record, held)) as deltas:
                    async for delta in deltas:
                        yield delta
                held = None
        finally:
            if self._records.get(request_id) is record:
                del self._records[request_id]

    async def _follow_once(
        self, record: StreamRecord, held: HeldCall | None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Follow a request at one gateway; returns early if that is lost and another may go on."""
        member = held.member if held is not None else await self._member_for(record)
        for delta in record.end_aborted():  # while there was nobody to tell
            yield delta
        if record.is_done or member is None:
            return
        reason: GalerneError = GatewayLostError("the stream ended early", True)
        try:
            async with aclosing(self._deltas_of(record, member, held)) as deltas:
                async for delta in deltas:
                    yield delta
        except (GatewayLostError, GatewayFailedError, StreamGapError) as error:
            reason = error
        for delta in record.end_aborted():
            yield delta
        if not record.is_done:
            await self._leave(record, member, reason)

    async def _deltas_of(
        self, record: StreamRecord, member: Member, held: HeldCall | None
    ) -> AsyncGenerator[TokenDelta, None]:
        """What is new of a request at a gateway."""
        request = record.resumption()
        stream = held.deltas() if held is not None else member.submit(request, record.unwanted)
        self._owner[request.request_id] = member
        try:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    new = record.take(delta)
                    if new is not None:
                        yield new
        finally:
            self._owner.pop(request.request_id, None)

    async def _leave(self, record: StreamRecord, member: Member, reason: GalerneError) -> None:
        """A gateway is lost to a stream. Raises ``reason`` if no other may be tried."""
        self._check_goes_on(record)
        was_running = not isinstance(reason, GatewayLostError) or reason.was_running
        if self._is_closed or not record.move(was_running=was_running):
            raise reason
        if was_running:
            self._on_stream_moved()
        logger.warning(
            "stream_moves request=%s gateway=%s address=%s reached=%s reason=%s",
            *(record.request.request_id, member.gateway, member.address, record.reached, reason),
        )
        if isinstance(reason, GatewayLostError):
            self._set_aside(member)
        else:
            await asyncio.sleep(_FAILOVER_POLL_S)

    async def _member_for(self, record: StreamRecord) -> Member | None:
        """A gateway to run a request; waits for one if the last has just been lost.

        None if the client has given up everything meanwhile.

        Raises:
            NotServingError: None came in time; says how far the request has come.
        """
        self._check_goes_on(record)
        if not self._members:
            await self._until_member(record)
        if not self._members:
            return None
        in_flight = {gateway: member.in_flight for gateway, member in self._members.items()}
        request = record.request
        chosen = choose_gateway(in_flight, request.prompt_token_ids, request.cache_salt)
        return self._members[chosen]

    async def _until_member(self, record: StreamRecord) -> None:
        started_s = self._now_s()
        self.num_held += 1
        try:
            while not self._members and not record.is_unwanted:
                wait_s = self._wake_wait_s if self._roster.pause else self._failover_wait_s
                if self._now_s() - started_s > wait_s or self._is_closed:
                    waited = f"no gateway came back in {wait_s:g} s"
                    raise NotServingError(f"{waited}; reached {record.reached} tokens")
                self._is_wanted.set()
                await asyncio.sleep(_FAILOVER_POLL_S)
                await self._probe_aside()
                self._check_goes_on(record)
        finally:
            self.num_held -= 1

    def give_up(self, reason: str | None) -> None:
        """End what runs and refuse what comes, for a reason; None: serve again."""
        self._given_up = reason or ""
        if self._given_up:
            for member in {*self._owner.values()}:
                member.drop_calls()

    def _check_goes_on(self, record: StreamRecord) -> None:
        """Raises NotServingError, with how far the request has come, when all was given up."""
        if self._given_up:
            raise NotServingError(f"{self._given_up}; reached {record.reached} tokens")

    def _set_aside(self, member: Member) -> None:
        """Leave out a gateway that is lost until it answers again."""
        if self._members.get(member.gateway) is member:
            self._aside[member.gateway] = self._members.pop(member.gateway)

    async def abort(
        self, request_id: str, choice: int | None = None, owner: bytes | None = None
    ) -> bool:
        """See ``GatewayPort.abort``; asks every gateway, for another frontend may have sent it."""
        record = self._records.get(request_id)
        if record is not None and owner not in (None, record.request.owner):
            return False
        if record is not None:
            record.abort(choice)
        member = self._owner.get(request_id)
        members = [member] if member is not None else list(self._members.values())
        calls = [member.abort(request_id, choice, owner) for member in members]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return record is not None or any(result is True for result in results)

    async def abort_all(self) -> None:
        """End every request that was submitted here; each ends with ``FinishReason.ABORT``."""
        await asyncio.gather(*(self.abort(request_id) for request_id in list(self._records)))

    async def load(self) -> GatewayLoad:
        """See ``GatewayPort.load``."""
        loads = [decode_load(d.load) for d in await self.describe_all()]
        names = GatewayLoad.__slots__
        return GatewayLoad(**{name: sum(getattr(load, name) for load in loads) for name in names})

    async def cluster(self) -> ClusterFacts:
        """See ``GatewayPort.cluster``."""
        with suppress(Exception):  # the last roster is kept
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
            uptime_s=self._now_s() - self._started_s,
            parts=roster.parts,
            process_metrics=roster.process_metrics,
        )

    async def unready_reason(self) -> str | None:
        """Ready while one gateway is, and while the background loops move."""
        if not self._loops or any(loop.done() for loop in self._loops):
            return "the roster loop is not running"
        if self._given_up:
            return self._given_up
        if self._roster.stalled:
            return f"loops of the controller have stopped: {self._roster.stalled}"
        descriptions = await self.describe_all()
        if not descriptions and self._roster.pause:
            return None  # whoever asks is answered, and so wakes the cluster
        if not descriptions:
            return "no gateway answers"
        reasons = [d.unready_reason for d in descriptions]
        return None if "" in reasons else "; ".join(reasons)

    async def describe_all(self) -> list[internal.GatewayDescription]:
        """What every gateway that answers says of itself."""
        calls = [member.describe() for member in self._members.values()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [r for r in results if isinstance(r, internal.GatewayDescription)]

    async def refresh(self, *, with_metrics: bool = False) -> None:
        """Ask for the roster; open and close channels as gateways come, move and go."""
        roster = await self._directory.roster(with_metrics=with_metrics)
        async with self._refresh_lock:
            if self._members and not roster.is_settled:
                return  # the controller has restarted and does not know everyone yet
            self._roster, self.adapters = roster, roster.adapters
            await self._follow({GatewayId(g): a for g, a in roster.gateways.items()})

    async def _follow(self, wanted: Mapping[GatewayId, str]) -> None:
        for known in (self._members, self._aside):
            for gateway, member in list(known.items()):
                has_moved = wanted.get(gateway) != member.address
                if has_moved or member.is_outdated:
                    logger.info("gateway_left gateway=%s address=%s", gateway, member.address)
                    del known[gateway]
                    await member.leave()
                    if gateway in wanted and has_moved:
                        member.drop_calls()  # it was replaced, and will end when it learns of it
        for gateway, address in wanted.items():
            if gateway not in self._members and gateway not in self._aside:
                logger.info("gateway_joined gateway=%s address=%s", gateway, address)
                self._members[gateway] = self._create_member(gateway, address, self._token)

    async def _keep_fresh(self) -> None:
        while True:
            self.num_turns["roster"] += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._is_wanted.wait()  # sooner: streams wait for a gateway
                    await asyncio.sleep(_FAILOVER_POLL_S)
            self._is_wanted.clear()
            try:
                await asyncio.wait_for(self.refresh(), CALL_TIMEOUT_S)
                if self.num_held and self._roster.pause:
                    await asyncio.wait_for(self._directory.demand(self.num_held), CALL_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - border: the controller may be away
                logger.warning("roster_refresh_failed reason=%s", error)

    async def _keep_probing(self) -> None:
        """A gateway that hangs, or is cut off, ends no connection: it is noticed by its silence."""
        while True:
            await asyncio.sleep(PROBE_S)
            self.num_turns["probe"] += 1
            busy = [member for member in self._members.values() if member.in_flight]
            await asyncio.gather(self._probe_aside(), *(member.probe() for member in busy))
            for member in busy:
                if member.is_suspect and len(self._members) > 1:
                    logger.warning("gateway_silent gateway=%s", member.gateway)
                    self._set_aside(member)
                    member.drop_calls()

    async def _probe_aside(self) -> None:
        """Take back what answers again."""
        members = list(self._aside.values())
        await asyncio.gather(*(member.probe() for member in members))
        for member in members:
            if not member.num_misses and self._aside.get(member.gateway) is member:
                del self._aside[member.gateway]
                self._members[member.gateway] = member
