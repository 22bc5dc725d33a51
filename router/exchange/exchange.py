"""The exchange of one gateway: a thin shell around session and transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.clock import Clock
from galerne.errors import EpochRetiredError, ShardUnavailableError
from galerne.ids import CallId, FrameId, ShardId
from router.exchange.calls import SendFrame, SessionCounters
from router.exchange.links import LinkState
from router.exchange.session import ExchangeSession
from router.exchange.transport import (
    Adopted,
    Answer,
    LinkDown,
    LinkUp,
    OutgoingCall,
    OutgoingFrame,
    Refusal,
    SentCall,
    Transport,
    TransportEvent,
)
from router.profiling import StepWatch
from shards.adapters.tokens import TokenAdapters

_MAX_WAIT_S = 0.5  # no wait without a look at the clock


class _Input(NamedTuple):
    """What a call asks for, kept until it has all of it."""

    layer: int
    micro_batch: int
    x: torch.Tensor
    adapters: TokenAdapters | None


class _Away:
    """Rows of one call that are away."""

    def __init__(self, exchange: ExpertExchange, call: CallId, rows: torch.Tensor) -> None:
        self._exchange = exchange
        self._call = call
        self._rows = rows

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """See ``PendingRows``."""
        self._exchange.complete(self._call, patience_s)
        return self._rows


class ExpertExchange:
    """Implements ``RoutedExperts`` over any transport. Used by the engine's thread only."""

    def __init__(self, session: ExchangeSession, transport: Transport, clock: Clock) -> None:
        self._session = session
        self._transport = transport
        self._clock = clock
        self._step = 0
        self._inputs: dict[CallId, _Input] = {}
        self._buffers: dict[CallId, torch.Tensor] = {}
        self._whole: dict[CallId, tuple[SentCall, dict[ShardId, FrameId]]] = {}
        self._is_interrupted = False
        self._watch: StepWatch | None = None

    def watch(self, watch: StepWatch | None) -> None:
        """See ``RoutedExperts``."""
        self._watch = watch

    def interrupt(self) -> None:
        """See ``RoutedExperts``."""
        self._is_interrupted = True

    def start_step(self, step: int) -> None:
        """Number the frames that follow; a step that failed leaves nothing behind."""
        self._step = step
        self._is_interrupted = False
        self.abandon()
        self.poll()

    def abandon(self) -> None:
        """Forget every call that is away; answers that still come are late."""
        for call in list(self._inputs):
            self._forget(call)

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> _Away:
        """See ``RoutedExperts``."""
        call = None
        if adapters is None:
            call = self._begin_whole(layer, micro_batch, x, expert_ids)
        actions: Iterable[SendFrame] = ()
        if call is None:
            call, actions = self._session.begin(layer, expert_ids, self._clock.now_s())
        self._inputs[call] = _Input(layer, micro_batch, x, adapters)
        self._buffers[call] = x.new_empty((expert_ids.size, x.shape[1]))
        self._perform(actions)
        return _Away(self, call, self._buffers[call].view(*expert_ids.shape, x.shape[1]))

    def _begin_whole(
        self, layer: int, micro_batch: int, x: torch.Tensor, expert_ids: npt.NDArray[np.int64]
    ) -> CallId | None:
        """Send all frames at once, where nothing is to be chosen and the transport can."""
        owner = self._session.owners(layer)
        if owner is None:
            return None
        now = self._clock.now_s()
        sent = self._transport.send_call(
            OutgoingCall(
                step=self._step,
                layer=layer,
                micro_batch=micro_batch,
                expert_ids=expert_ids,
                source=x,
                owner=owner,
                first_frame=self._session.next_frame,
                row_budget=self._session.row_budget,
            )
        )
        if sent is None:
            return None
        call, frames = self._session.begin_sent(layer, expert_ids, sent.slots_by_shard, now)
        self._whole[call] = sent, frames
        if self._watch is not None:
            for shard, frame in frames.items():
                num_rows = len(sent.slots_by_shard[shard])
                self._watch.frame_sent(frame, shard, layer, 0, num_rows, now)
        return call

    def complete(self, call: CallId, patience_s: float | None = None) -> None:
        """Serve events until the call's rows are in.

        Raises:
            ShardUnavailableError: Not before the session's limit, or ``patience_s``.
            EpochRetiredError: The cluster serves another epoch by now.
            GalerneError: A shard refused for good.
        """
        begun_s = self._clock.now_s()
        try:
            self._collect(call)
            while not self._session.is_complete(call):
                if self._is_interrupted:
                    raise EpochRetiredError(self._session.epoch)
                waited_s = self._clock.now_s() - begun_s
                if patience_s is not None and waited_s > patience_s:
                    raise ShardUnavailableError(self._session.missing_shards(call), waited_s)
                self._serve_one(call)
        finally:
            self._forget(call)

    def _collect(self, call: CallId) -> None:
        """Take in what a call that was sent as a whole gets without a fault; once."""
        sent, frames = self._whole.pop(call, (None, {}))
        if sent is None:
            return
        wait_s = _wait_s(self._session.next_deadline_s(), self._clock.now_s())
        ages = sent.collect(self._buffers[call], wait_s)
        now = self._clock.now_s()
        for shard, age_s in ages.items():
            num_rows = len(sent.slots_by_shard[shard])
            self._session.on_answer(shard, frames[shard], num_rows, now - age_s)
            if self._watch is not None:
                self._watch.frame_answered(frames[shard], age_s, sent.times(shard))

    def poll(self) -> None:
        """Take in events that came while no call was away (links up and down)."""
        while (event := self._transport.receive(0.0)) is not None:
            self._take(event)

    def unreachable(self) -> list[ShardId]:
        """See ``ExchangeSession.unreachable``."""
        return self._session.unreachable()

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """State of every link."""
        return self._session.links.state

    @property
    def counters(self) -> SessionCounters:
        """Totals for metrics."""
        return self._session.counters

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()
        self._whole.clear()  # they hold its memory

    def _serve_one(self, call: CallId) -> None:
        now = self._clock.now_s()
        deadline = self._session.next_deadline_s()
        num_awaited = self._session.num_awaited(call)
        event = self._transport.receive(_wait_s(deadline, now), num_awaited)
        if event is not None:
            self._take(event)
        if event is None or (deadline is not None and self._clock.now_s() >= deadline):
            self.poll()  # after a pause of ours: what has come already is not overdue
            self._perform(self._session.on_time(self._clock.now_s()))

    def _take(self, event: TransportEvent) -> None:
        self._whole.clear()  # the event may be for any of them: all go on frame by frame
        now = self._clock.now_s()
        match event:
            case Answer(shard, frame, rows, age_s, times):
                num_rows = len(rows) if self._has_form(rows) else -1
                accepted = self._session.on_answer(shard, frame, num_rows, now - age_s)
                if accepted is not None:
                    self._fill(accepted.call, accepted.slots, accepted.rows, rows)
                if self._watch is not None:
                    self._watch.frame_answered(frame, age_s, times)
            case Refusal(shard, frame, error):
                self._perform(self._session.on_refusal(shard, frame, error, now))
            case LinkUp(shard):
                self._perform(self._session.on_link_up(shard, now))
            case LinkDown(shard, _):
                self._perform(self._session.on_link_down(shard, now))
            case Adopted(shard, experts):
                self._perform(self._session.on_adopted(shard, experts, now))

    def _has_form(self, rows: torch.Tensor) -> bool:
        """Whether rows have the width and dtype of what is away; one model has one of each."""
        return all(
            (rows.dtype, rows.shape[1:]) == (given.x.dtype, given.x.shape[1:])
            for given in self._inputs.values()
        )

    def _fill(
        self,
        call: CallId,
        slots: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        rows: torch.Tensor,
    ) -> None:
        new = rows if len(places) == len(rows) else rows[torch.from_numpy(places)]
        buffer = self._buffers[call]  # rows may have come to another device
        buffer.index_copy_(0, torch.from_numpy(slots).to(buffer.device), new.to(buffer.device))

    def _perform(self, actions: Iterable[SendFrame]) -> None:
        for action in actions:
            given = self._inputs[action.call]
            if self._watch is not None:
                num_rows = len(action.rows.slots)
                told = (action.frame, action.shard, given.layer, action.attempt, num_rows)
                self._watch.frame_sent(*told, self._clock.now_s())
            self._transport.send(
                OutgoingFrame(
                    shard=action.shard,
                    frame=action.frame,
                    attempt=action.attempt,
                    step=self._step,
                    layer=given.layer,
                    micro_batch=given.micro_batch,
                    rows=action.rows,
                    source=given.x,
                    source_adapters=given.adapters,
                )
            )

    def _forget(self, call: CallId) -> None:
        if self._inputs.pop(call, None) is not None:
            self._buffers.pop(call)
            self._whole.pop(call, None)
            self._session.end(call)


def _wait_s(deadline_s: float | None, now_s: float) -> float:
    """How long nothing has to be done unless something comes."""
    return _MAX_WAIT_S if deadline_s is None else min(max(deadline_s - now_s, 0.0), _MAX_WAIT_S)
