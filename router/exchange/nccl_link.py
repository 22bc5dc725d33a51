"""The gateway's end of a link by NCCL, beside the stream that announces what goes."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from galerne.errors import ProtocolError
from galerne.frame import FrameHeader, FrameKind
from galerne.hello import decode_refusal
from galerne.ids import FrameId, ShardId
from router.exchange.grpc_link import LinkEvent, NcclNews
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.nccl_away import Answered, AwayFrames, Outcome, Refused
from router.exchange.transport import Answer, LinkDown, OutgoingFrame, Refusal, TransportEvent
from shards.nccl.channel import Channel
from shards.nccl.port import Event
from shards.nccl.runtime import NcclRuntime
from shards.nccl.turns import Turn, TurnPlanner
from shards.nccl.wire import encode_abort, encode_request, encode_turn, read_abort
from shards.times import times_of
from shards.wire import Indices

logger = logging.getLogger(__name__)

Emit = Callable[[TransportEvent], None]


class NcclState(enum.Enum):
    """Of one link, in one epoch."""

    UNUSED = "unused"  # nothing was tried yet
    JOINING = "joining"
    UP = "up"
    ENDED = "ended"  # the next epoch has a communicator of its own


ALLOWED: Mapping[NcclState, frozenset[NcclState]] = {
    NcclState.UNUSED: frozenset({NcclState.JOINING, NcclState.ENDED}),
    NcclState.JOINING: frozenset({NcclState.UP, NcclState.ENDED}),
    NcclState.UP: frozenset({NcclState.ENDED}),
    NcclState.ENDED: frozenset(),
}


@dataclass(slots=True)
class _Sent:
    """A frame, and its memory on the device."""

    frame: OutgoingFrame
    header: FrameHeader
    tokens: torch.Tensor | None  # [T, H]; none: they are there
    rows: torch.Tensor  # [R, H], for the results
    fence: Event  # of both


class NcclShardLink:
    """One link. Takes frames of the engine's thread, and events of the stream's loop."""

    def __init__(
        self,
        shard: ShardId,
        incarnation: int,
        runtime: NcclRuntime,
        grpc: GrpcTransport,
        emit: Emit,
    ) -> None:
        """``emit`` may be called on any thread, and never blocks."""
        self._shard, self._incarnation = shard, incarnation
        self._runtime, self._grpc, self._emit = runtime, grpc, emit
        self._lock = threading.Lock()  # of what follows; no call of NCCL is made under it
        self._state = NcclState.UNUSED
        self._channel: Channel | None = None
        self._away: AwayFrames[_Sent] = AwayFrames()
        self._planner = TurnPlanner()
        self._held: list[TransportEvent] = []  # while it joins: the link is not up before

    @property
    def state(self) -> NcclState:
        """From any thread."""
        return self._state

    # -- on the engine's thread ----------------------------------------------------------------

    def send(self, frame: OutgoingFrame, header: FrameHeader) -> bool:
        """Put a frame on its way; False if it must go by the stream."""
        num_tokens, num_rows = header.num_tokens, header.num_rows
        if self._state is not NcclState.UP or not min(num_tokens, num_rows, header.hidden_size):
            return False
        port = self._runtime.port
        # All tokens in their order are the source itself: nothing is copied.
        tokens = frame.source if num_tokens == len(frame.source) else frame.tokens
        tokens = tokens.to(port.device).contiguous()
        rows = port.empty((num_rows, header.hidden_size), tokens.dtype)
        sent = _Sent(frame, header, tokens, rows, port.fence())
        with self._lock:
            if self._state is not NcclState.UP:
                return False
            self._away.add(frame.frame, sent)
            self._planner.send(frame.frame)
        self._runtime.submit(self._advance)
        return True

    def ask(self) -> None:
        """Whoever waits for rows sends nothing before they are there."""
        with self._lock:
            self._planner.ask()
        self._runtime.submit(self._advance)

    # -- on the stream's loop ------------------------------------------------------------------

    def join(self, unique_id: bytes) -> None:
        """The shard joins too; events of the link are held back until both have, or have not."""
        with self._lock:
            self._move(NcclState.JOINING)
        self._runtime.join(unique_id, 0, self._joined)

    def take(self, event: LinkEvent) -> None:
        """An event of the stream."""
        if isinstance(event, NcclNews):
            try:
                self._take_news(event)
            except ProtocolError as error:
                self._grpc.fail(self._shard, error)
            return
        assert isinstance(event, TransportEvent)
        if isinstance(event, LinkDown) and self._stream_lost():
            return
        with self._lock:
            if self._state is NcclState.JOINING:
                self._held.append(event)
            else:
                self._emit(event)

    def _take_news(self, news: NcclNews) -> None:
        frame = news.frame
        number = FrameId(frame.header.frame)
        match frame.header.kind:
            case FrameKind.REPLY:
                told = times_of(frame.header.num_tokens, frame.header.gateway)
                with self._lock:
                    outcomes = self._away.told(number, told)
            case FrameKind.REFUSAL:
                error = decode_refusal(frame)
                with self._lock:
                    outcomes = self._away.told(number, error)
            case FrameKind.LINK_ABORT:
                self._end(f"the shard: {read_abort(frame)}", tells_peer=False)
                return
            case kind:
                raise ProtocolError(f"{kind.name} by NCCL")
        self._settle(outcomes)

    def _stream_lost(self) -> bool:
        """Whether the link was not reported up yet. The session resends what was away."""
        if self._state is NcclState.UNUSED:
            return False
        return self._end("the stream has ended", tells_peer=False, is_forgotten=True)

    def close(self) -> None:
        """Nothing is wanted any more."""
        self._end("the gateway leaves the epoch", tells_peer=False, is_forgotten=True)

    # -- on the issuing thread -----------------------------------------------------------------

    def _advance(self) -> None:
        """Announce and call for all that may go now."""
        while True:
            with self._lock:
                channel = self._channel
                if channel is None or channel.reason or self._state is not NcclState.UP:
                    return
                turn = self._planner.next()
                if turn is None:
                    return
                sent = None if turn.sent is None else self._away.announce(turn.sent)
                answers = [self._away.get(number) for number in turn.answers]
            if sent is None:
                messages = encode_turn(self._incarnation, turn)
            else:
                messages = encode_request(sent.header, _indices(sent.frame), turn)
            self._grpc.push(self._shard, messages, is_answered=sent is not None)
            with self._runtime.calling_for(channel):
                self._post(channel, turn, sent, answers)

    def _post(
        self, channel: Channel, turn: Turn, sent: _Sent | None, answers: Sequence[_Sent]
    ) -> None:
        sends = [] if sent is None or sent.tokens is None else [sent.tokens]
        receives = [answer.rows for answer in answers]
        fences = [each.fence for each in (*answers, *([] if sent is None else [sent]))]
        channel.post(sends, receives, fences, partial(self._over, turn))

    def _over(self, turn: Turn) -> None:
        with self._lock:
            if self._state is not NcclState.UP:
                return
            self._planner.finished()
            if turn.sent is not None:
                self._away.get(turn.sent).tokens = None
            outcomes = self._away.rows_came(turn.answers)
        self._settle(outcomes)
        self._advance()

    # -- on any thread -------------------------------------------------------------------------

    def _joined(self, channel: Channel | None, problem: str) -> None:
        if channel is None:
            logger.warning("nccl_not_used shard=%s reason=%s", self._shard, problem)
            self._end(problem, tells_peer=True)
            return
        with self._lock:
            is_wanted = self._state is NcclState.JOINING
            if is_wanted:
                self._channel = channel
                self._move(NcclState.UP)
                for event in self._held:
                    self._emit(event)
                self._held.clear()
        self._runtime.serve(channel, self._given_up)
        if not is_wanted:
            self._runtime.give_up(channel, "not wanted any more")
            return
        logger.info("nccl_up shard=%s", self._shard)
        self._runtime.submit(self._advance)

    def _given_up(self, reason: str) -> None:
        self._end(reason, tells_peer=True)

    def _end(self, reason: str, *, tells_peer: bool, is_forgotten: bool = False) -> bool:
        """From now on by the stream; what is away goes there as its fate is known, or is forgotten.

        Returns:
            Whether the link had not been reported up.
        """
        with self._lock:
            if is_forgotten:
                self._held.clear()
                self._away.clear()
            before = self._state
            if before is NcclState.ENDED:
                return False
            self._move(NcclState.ENDED)
            channel = self._channel
            outcomes = self._away.abort()
            for event in self._held:
                self._emit(event)
            self._held.clear()
        if before is NcclState.UP:
            level = (
                logging.INFO if is_forgotten else logging.WARNING
            )  # the loss of a stream is told
            logger.log(level, "nccl_link_ended shard=%s reason=%s", self._shard, reason)
        if tells_peer:
            messages = encode_abort(self._incarnation, reason)
            self._grpc.push(self._shard, messages, is_answered=False)
        if channel is not None:
            self._runtime.give_up(channel, reason)
        self._settle(outcomes)
        return before is NcclState.JOINING

    def _settle(self, outcomes: Sequence[Outcome[_Sent]]) -> None:
        for outcome in outcomes:
            frame = outcome.frame.frame
            match outcome:
                case Answered(sent, times):
                    rows = sent.rows.to(frame.source.device)
                    self._emit(Answer(self._shard, frame.frame, rows, times=times))
                case Refused(_, error):
                    self._emit(Refusal(self._shard, frame.frame, error))
                case _:
                    self._grpc.send(frame)

    def _move(self, state: NcclState) -> None:
        assert state in ALLOWED[self._state], f"{self._state} to {state}"
        self._state = state


def _indices(frame: OutgoingFrame) -> Indices:
    rows = frame.rows
    return Indices(rows.expert_ids, rows.num_rows_by_group, rows.row_token, frame.adapters)
