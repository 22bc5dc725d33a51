"""How long a shard had a frame, as its answer tells: no clock of one host is read on another."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from galerne.frame import FrameHeader, FrameKind

_MOST_US = (1 << 32) - 1


class ShardTimes(NamedTuple):
    """Of one frame."""

    queue_s: float = 0.0  # from its arrival (by shared memory: its sending) until its pass
    service_s: float = 0.0  # of its pass, with all that was merged into it

    @property
    def as_us(self) -> tuple[int, int]:
        """Whole microseconds, as they travel."""
        queue_us, service_us = (min(max(int(s * 1e6), 0), _MOST_US) for s in self)
        return queue_us, service_us


NO_TIMES = ShardTimes()


def reply_header(request: FrameHeader, times: ShardTimes) -> FrameHeader:
    """Head of an answer, which tells the times in fields that only a request needs."""
    queue_us, service_us = times.as_us
    return replace(request, kind=FrameKind.REPLY, num_tokens=queue_us, gateway=service_us)


def times_of(queue_us: int, service_us: int) -> ShardTimes:
    """The times that two fields of an answer tell."""
    return ShardTimes(queue_us / 1e6, service_us / 1e6)
