"""The simplest transport: frames computed in the caller's thread. The contract suite's measure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from galerne.errors import GalerneError
from galerne.ids import ShardId
from router.exchange.transport import (
    Answer,
    LinkUp,
    OutgoingCall,
    OutgoingFrame,
    Refusal,
    TransportEvent,
)
from shards.bank import ExpertBank


class LocalTransport:
    """Computes frames in the caller's thread when their answer is asked for."""

    def __init__(self, banks: Mapping[ShardId, ExpertBank]) -> None:
        self._banks = banks
        self._events: deque[TransportEvent] = deque(LinkUp(shard) for shard in banks)
        self._frames: deque[OutgoingFrame] = deque()
        self._is_closed = False

    def send(self, frame: OutgoingFrame) -> None:
        """Queue the frame."""
        if not self._is_closed:
            self._frames.append(frame)

    def send_call(self, call: OutgoingCall) -> None:
        """Frame by frame."""
        del call

    def receive(self, timeout_s: float, num_awaited: int = 1) -> TransportEvent | None:
        """The next event; computes a queued frame if there is none."""
        if self._events:
            return self._events.popleft()
        if not self._frames:
            time.sleep(max(timeout_s, 0.0))  # nothing can come, but the caller must not spin
            return None
        frame = self._frames.popleft()
        rows = frame.rows
        try:
            result = self._banks[frame.shard].run(
                *(frame.layer, frame.tokens, rows.expert_ids, rows.num_rows_by_group),
                *(rows.row_token, frame.adapters),
            )
        except GalerneError as error:
            return Refusal(frame.shard, frame.frame, error)
        return Answer(frame.shard, frame.frame, result)

    def close(self) -> None:
        """Drop what is queued."""
        self._is_closed = True
        self._frames.clear()
        self._events.clear()
