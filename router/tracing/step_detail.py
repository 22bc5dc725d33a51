"""What one step of a gateway did, part by part and frame by frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from galerne.ids import FrameId, ShardId
from shards.times import NO_TIMES, ShardTimes


class Part(NamedTuple):
    """A part of a step."""

    name: str
    start_s: float
    end_s: float


class FrameDetail(NamedTuple):
    """Rows that were asked of a shard."""

    shard: ShardId
    layer: int
    attempt: int  # above 0: asked again
    num_rows: int
    sent_s: float
    answered_s: float | None  # None: not within the step
    times: ShardTimes


class _Sent(NamedTuple):
    shard: ShardId
    layer: int
    attempt: int
    num_rows: int
    sent_s: float


@dataclass(slots=True, eq=False)
class StepDetail:
    """Implements ``StepWatch``; notes as little as it can, for most steps are never shown."""

    step: int
    start_s: float
    num_sequences: int
    num_tokens: int
    end_s: float = 0.0
    error: str = ""
    is_retried: bool = False  # rows had to be asked for again
    num_holders: int = 0  # choices that may show it
    now_s: Callable[[], float] = time.perf_counter
    _parts: list[tuple[str, float, float]] = field(default_factory=list)
    _sent: dict[FrameId, tuple[ShardId, int, int, int, float]] = field(default_factory=dict)
    _answered: dict[FrameId, tuple[float, ShardTimes]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s

    @property
    def parts(self) -> list[Part]:
        """In the order in which they ended."""
        return [Part(*part) for part in self._parts]

    @property
    def frames(self) -> list[FrameDetail]:
        """In the order in which they were sent."""
        return [self._frame(frame, _Sent(*sent)) for frame, sent in self._sent.items()]

    def _frame(self, frame: FrameId, sent: _Sent) -> FrameDetail:
        answered_s, times = self._answered.get(frame, (None, NO_TIMES))
        if answered_s is not None:
            answered_s = max(answered_s, sent.sent_s)
        return FrameDetail(*sent, answered_s, times)

    def part(self, name: str, started_s: float, ended_s: float) -> None:
        """See ``StepWatch``."""
        self._parts.append((name, started_s, ended_s))

    def frame_sent(
        self,
        frame: FrameId,
        shard: ShardId,
        layer: int,
        attempt: int,
        num_rows: int,
        sent_s: float,
    ) -> None:
        """See ``StepWatch``."""
        self._sent[frame] = shard, layer, attempt, num_rows, sent_s
        if attempt:
            self.is_retried = True

    def frame_answered(self, frame: FrameId, age_s: float, times: ShardTimes) -> None:
        """See ``StepWatch``."""
        self._answered.setdefault(frame, (self.now_s() - age_s, times))  # the first one counts


class StepBuffer:
    """Bounds the steps that are held in all; those beyond it are not shown."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.num_held = 0
        self.num_refused = 0

    def exchange(self, held: StepDetail | None, step: StepDetail) -> StepDetail | None:
        """Hold ``step`` in place of what a choice has held; that which it holds from now on."""
        is_new = step.num_holders == 0
        frees_one = held is not None and held.num_holders == 1
        if is_new and not frees_one and self.num_held >= self._most:
            self.num_refused += 1
            return held
        self.release(held)
        self.num_held += is_new
        step.num_holders += 1
        return step

    def release(self, step: StepDetail | None) -> None:
        """A choice holds it no longer."""
        if step is not None:
            step.num_holders -= 1
            self.num_held -= step.num_holders == 0
