"""Where a step's time goes, part by part. Costs two clock reads a part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class LayerTimer:
    """Sums wall time by part name over layers and steps."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside the block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere to ``name``."""
        self.seconds[name] += seconds

    def snapshot(self) -> dict[str, float]:
        """A copy; another thread may be adding."""
        return dict(self.seconds)

    def reset(self) -> None:
        """Forget everything measured so far."""
        self.seconds.clear()
