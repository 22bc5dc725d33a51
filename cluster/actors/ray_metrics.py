"""A bounded set of numbers on Ray's own metrics endpoint and pages; ours have them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields

from cluster.control.numbers import ClusterNumbers

_TURN_S = 5.0
_TAG = "deployment"


class RayMetrics:
    """A loop of the controller. Ray puts ``ray_`` in front of the names."""

    def __init__(self, app_name: str, look: Callable[[], ClusterNumbers]) -> None:
        from ray.util.metrics import Gauge

        self._look = look
        self._gauges = {
            field.name: Gauge(f"galerne_{field.name}", field.metadata["text"], (_TAG,))
            for field in fields(ClusterNumbers)
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({_TAG: app_name})
        self.turns = 0  # of the loop, for those who watch it

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.turns += 1
            now = self._look()
            for name, gauge in self._gauges.items():
                gauge.set(getattr(now, name))
            await asyncio.sleep(_TURN_S)
