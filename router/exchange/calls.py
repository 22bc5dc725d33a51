"""What the session keeps of a call and of its frames, and what it tells its caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from galerne.errors import GalerneError
from galerne.ids import CallId, FrameId, ShardId
from galerne.time_buckets import TimeBuckets
from router.exchange.dispatch import FrameRows, Ints

ROUND_TRIP_BOUNDS_S: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    *(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Action: put these rows on the wire."""

    shard: ShardId
    frame: FrameId
    call: CallId
    attempt: int
    rows: FrameRows


@dataclass(frozen=True, slots=True)
class Accepted:
    """What of an answer is new: ``rows`` of the answer go to ``slots`` of the call."""

    call: CallId
    rows: Ints
    slots: Ints


@dataclass(slots=True)
class InFlight:
    """A frame that is away."""

    call: CallId
    shard: ShardId
    slots: Ints  # [R] of the call, in the order of the frame's rows
    attempt: int
    sent_s: float
    deadline_s: float
    is_overdue: bool = False


@dataclass(slots=True)
class Call:
    """One exchange: what is in, what is asked for."""

    layer: int
    expert_ids: Ints
    begun_s: float
    filled: npt.NDArray[np.bool_]  # [T * K]
    asked: npt.NDArray[np.bool_]  # [T * K], sent at least once
    attempt: int = 0
    orphans: list[Ints] = field(default_factory=list)  # slots that no usable shard has
    doubted: list[Ints] = field(default_factory=list)  # slots to resend as the budget allows
    refused_by: dict[ShardId, None] = field(default_factory=dict)  # who refused last comes last
    error: GalerneError | None = None

    def unfilled(self, parts: list[Ints]) -> Ints:
        """The slots of ``parts`` that still lack a row, each once, in their order."""
        if not parts:
            return np.zeros(0, dtype=np.int64)
        slots, first = np.unique(np.concatenate(parts), return_index=True)
        slots = slots[np.argsort(first)]
        left: Ints = slots[~self.filled[slots]]
        return left

    def note_refusal(self, shard: ShardId) -> bool:
        """A shard refused: it is asked again after all others. Whether it is the first time."""
        is_first = shard not in self.refused_by
        self.refused_by.pop(shard, None)
        self.refused_by[shard] = None
        return is_first

    @property
    def is_open(self) -> bool:
        """Whether it still waits for rows."""
        return self.error is None and not self.filled.all()


@dataclass(slots=True)
class LinkCounters:
    """Totals of the link to one shard."""

    frames: int = 0
    rows: int = 0
    suspicions: int = 0
    late_answers: int = 0
    refused_frames: int = 0
    round_trips: TimeBuckets = field(default_factory=lambda: TimeBuckets(ROUND_TRIP_BOUNDS_S))


@dataclass(slots=True)
class SessionCounters:
    """Totals since a gateway's start, for metrics: sessions that follow each other share them."""

    rows_sent: int = 0
    rows_resent: int = 0
    rows_hedged: int = 0  # of those: while the first shard may still answer
    rows_local: int = 0  # computed in this process
    late_answers: int = 0
    duplicate_rows: int = 0
    suspicions: int = 0
    refused_frames: int = 0
    by_shard: dict[ShardId, LinkCounters] = field(default_factory=dict)

    def of(self, shard: ShardId) -> LinkCounters:
        """Those of the link to one shard."""
        return self.by_shard.setdefault(shard, LinkCounters())

    def keep(self, shards: Iterable[ShardId]) -> None:
        """Show no shards but these: names do not come back."""
        kept = set(shards)
        self.by_shard = {s: link for s, link in self.by_shard.items() if s in kept}
