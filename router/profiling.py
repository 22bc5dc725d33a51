"""Where a step's time goes, part by part. Costs two clock reads a part.

Who watches a step hears of every part as well, see ``StepWatch``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from galerne.ids import FrameId, ShardId
from shards.times import ShardTimes


class StepWatch(Protocol):
    """Hears what one step does, on the engine's thread. Times are of the monotonic clock.

    ``time.perf_counter`` is the same clock on Linux.
    """

    def part(self, name: str, started_s: float, ended_s: float) -> None:
        """A part of the step was done."""
        ...

    def frame_sent(
        self,
        frame: FrameId,
        shard: ShardId,
        layer: int,
        attempt: int,
        num_rows: int,
        sent_s: float,
    ) -> None:
        """Rows are on their way to a shard; ``sent_s``: before they were."""
        ...

    def frame_answered(self, frame: FrameId, age_s: float, times: ShardTimes) -> None:
        """A shard's rows are in, for ``age_s`` already."""
        ...


class LayerTimer:
    """Sums wall time by part name over layers and steps."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.watch: StepWatch | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside the block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            self.seconds[name] += end - start
            if self.watch is not None:
                self.watch.part(name, start, end)

    def add(self, names: Sequence[str], seconds: Sequence[float]) -> None:
        """Add times that native code has measured, of parts that have just ended.

        Whoever watches is told of them one after the other, though native code may have been at
        some of them by turns.
        """
        for name, part_s in zip(names, seconds, strict=True):
            self.seconds[name] += part_s
        if self.watch is not None:
            start = time.perf_counter() - sum(seconds)
            for name, part_s in zip(names, seconds, strict=True):
                self.watch.part(name, start, start + part_s)
                start += part_s

    def snapshot(self) -> dict[str, float]:
        """A copy; another thread may be adding."""
        return dict(self.seconds)

    def reset(self) -> None:
        """Forget everything measured so far."""
        self.seconds.clear()
