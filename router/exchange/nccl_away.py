"""Frames whose tokens went by NCCL: what is known of each, and what is to be done about it. Pure.

The stream tells that a frame is computed, NCCL brings its rows, and either may be first. Once
nothing goes by NCCL any more, every frame without rows goes again by the stream: when the stream
has told what became of it, so that none is answered twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from galerne.errors import GalerneError, LinkAbortedError, ProtocolError
from galerne.ids import FrameId
from shards.times import ShardTimes

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[_T]):
    """Its rows are there, and it was computed."""

    frame: _T
    times: ShardTimes


@dataclass(frozen=True, slots=True)
class Refused(Generic[_T]):
    """It was not computed."""

    frame: _T
    error: GalerneError


@dataclass(frozen=True, slots=True)
class Resend(Generic[_T]):
    """It must go by the stream."""

    frame: _T


Outcome: TypeAlias = Answered[_T] | Refused[_T] | Resend[_T]


@dataclass(slots=True)
class _Away(Generic[_T]):
    frame: _T
    is_announced: bool = False  # so that the stream will tell of it
    told: ShardTimes | GalerneError | None = None
    has_rows: bool = False


class AwayFrames(Generic[_T]):
    """Of one link. ``T``: what the caller keeps of a frame."""

    def __init__(self) -> None:
        self._away: dict[FrameId, _Away[_T]] = {}
        self._is_aborted = False

    def __len__(self) -> int:
        """Frames that no outcome was given for."""
        return len(self._away)

    def add(self, number: FrameId, frame: _T) -> None:
        """It is going to be sent."""
        self._away[number] = _Away(frame)

    def announce(self, number: FrameId) -> _T:
        """The shard is told of it now; what was added."""
        away = self._away[number]
        away.is_announced = True
        return away.frame

    def get(self, number: FrameId) -> _T:
        """What was added."""
        return self._away[number].frame

    def told(self, number: FrameId, what: ShardTimes | GalerneError) -> Sequence[Outcome[_T]]:
        """The stream tells that a frame was computed, or why it was not.

        Raises:
            ProtocolError: There is no such frame, or this was told already.
        """
        away = self._away.get(number)
        if away is None or away.told is not None:
            raise ProtocolError(f"news of frame {number}, which is not away")
        away.told = what
        return self._settle([number])

    def rows_came(self, numbers: Sequence[FrameId]) -> Sequence[Outcome[_T]]:
        """A turn is over that was to bring rows of these."""
        for number in numbers:
            self._away[number].has_rows = True
        return self._settle(numbers)

    def abort(self) -> Sequence[Outcome[_T]]:
        """Nothing goes by NCCL any more."""
        self._is_aborted = True
        return self._settle(list(self._away))

    def clear(self) -> None:
        """The stream has ended: others resend all that was away."""
        self._away.clear()

    def _settle(self, numbers: Sequence[FrameId]) -> list[Outcome[_T]]:
        found = ((number, self._outcome(self._away[number])) for number in numbers)
        settled = [(number, outcome) for number, outcome in found if outcome is not None]
        for number, _ in settled:
            del self._away[number]
        return [outcome for _, outcome in settled]

    def _outcome(self, away: _Away[_T]) -> Outcome[_T] | None:
        if self._is_aborted and not away.is_announced:
            return Resend(away.frame)
        if away.told is None or not (away.has_rows or self._is_aborted):
            return None
        if isinstance(away.told, LinkAbortedError):
            return Resend(away.frame)
        if isinstance(away.told, GalerneError):
            return Refused(away.frame, away.told)
        return Answered(away.frame, away.told) if away.has_rows else Resend(away.frame)
