"""Which rows go between two GPUs, in which order. Pure.

A turn is one group of NCCL at both ends: at most one frame's tokens go to the shard, and rows of
frames of earlier turns come back. The gateway announces turns on the stream, and both ends call for
them in that order, so that no end waits for what the other has put behind something else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from galerne.errors import ProtocolError
from galerne.ids import FrameId

# Frames at the shard whose rows are not asked for while others go out: one is computed, one waits.
DEPTH = 2
# Turns that one end has called for and that are not over: CUDA's queue of a stream has an end.
MAX_OPEN = 8


@dataclass(frozen=True, slots=True)
class Turn:
    """One group of NCCL."""

    number: int  # from 1 on
    sent: FrameId | None  # whose tokens go
    answers: tuple[FrameId, ...]  # whose rows come back, in this order


class TurnPlanner:
    """The gateway's: makes turns of the frames it is told of."""

    def __init__(self, depth: int = DEPTH, max_open: int = MAX_OPEN) -> None:
        self._depth, self._max_open = depth, max_open
        self._unsent: deque[FrameId] = deque()
        self._unasked: deque[FrameId] = deque()  # sent, and no turn brings their rows yet
        self._is_asked = False
        self._number = 0
        self._num_open = 0

    def send(self, frame: FrameId) -> None:
        """Its tokens are to go."""
        self._unsent.append(frame)

    def ask(self) -> None:
        """All rows are wanted: nothing else is to be sent before they are there."""
        self._is_asked = True

    def finished(self) -> None:
        """The oldest turn that is open is over."""
        self._num_open -= 1

    def next(self) -> Turn | None:
        """What to announce and call for now; None: nothing, until something is told."""
        if self._num_open >= self._max_open:
            return None
        if self._unsent:
            num_asked = max(len(self._unasked) - self._depth + 1, 0)
            turn = self._turn(self._unsent.popleft(), num_asked)
            assert turn.sent is not None
            self._unasked.append(turn.sent)
            return turn
        if self._is_asked and self._unasked:
            return self._turn(None, len(self._unasked))
        self._is_asked = False
        return None

    def _turn(self, sent: FrameId | None, num_asked: int) -> Turn:
        self._number += 1
        self._num_open += 1
        answers = tuple(self._unasked.popleft() for _ in range(num_asked))
        return Turn(self._number, sent, answers)


class TurnBook:
    """The shard's: turns as they were announced, called for when their rows are there."""

    def __init__(self) -> None:
        self._announced: deque[Turn] = deque()
        self._has_rows: dict[FrameId, bool] = {}  # of frames whose rows no turn has taken
        self._asked: set[FrameId] = set()
        self._number = 0

    def announce(self, turn: Turn) -> None:
        """The gateway calls for this turn.

        Raises:
            ProtocolError: It cannot be the next one.
        """
        self._number += 1
        if turn.number != self._number:
            raise ProtocolError(f"turn {turn.number} where {self._number} was expected")
        for frame in turn.answers:
            if frame not in self._has_rows or frame in self._asked:
                raise ProtocolError(f"turn {turn.number} wants rows of frame {frame}, not to come")
            self._asked.add(frame)
        if turn.sent is not None:
            if turn.sent in self._has_rows:
                raise ProtocolError(f"turn {turn.number} sends frame {turn.sent} again")
            self._has_rows[turn.sent] = False
        self._announced.append(turn)

    def answered(self, frame: FrameId) -> None:
        """The rows of a frame are there, or it was refused and its rows mean nothing."""
        if frame in self._has_rows:
            self._has_rows[frame] = True

    def next(self) -> Turn | None:
        """The next turn, if all it takes is there."""
        if not self._announced or not all(map(self._has_rows.get, self._announced[0].answers)):
            return None
        turn = self._announced.popleft()
        for frame in turn.answers:
            del self._has_rows[frame]
            self._asked.discard(frame)
        return turn
