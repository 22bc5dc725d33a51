"""How busy this frontend's process is, for the policy that scales frontends and for /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.ingress.frontend_policy import BUSY, LAG_S
from galerne.metric_set import MetricSet

PERIOD_S = 5.0  # of one measurement
_TICK_S = 0.1
_LATE_FRACTION = 0.9  # of the ticks are less late than what is told


class BusyMeter:
    """Measures the process it is in, on the event loop that does its work."""

    def __init__(
        self,
        metrics: MetricSet,
        cpu_s: Callable[[], float] = time.process_time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cpu_s, self._now_s = cpu_s, now_s
        self._busy = metrics.gauge(
            "galerne_frontend_busy_cores",
            "Cores that the frontend's process takes; one event loop is saturated near 1.",
        )
        self._lag_s = metrics.gauge(
            "galerne_frontend_loop_lag_seconds",
            "How late the frontend's event loop comes to what is due; 90 % are less late.",
        )
        self._looks = metrics.counter(
            "galerne_frontend_busy_looks_total", "Measurements of how busy it is."
        )
        self._latest: dict[str, float] = {BUSY: 0.0, LAG_S: 0.0}

    @property
    def latest(self) -> dict[str, float]:
        """As Serve takes it: values by the names of the policy."""
        return dict(self._latest)

    async def watch(self, period_s: float = PERIOD_S, tick_s: float = _TICK_S) -> None:
        """Measure, for ever."""
        while True:
            started = self._now_s(), self._cpu_s()
            late_s = []
            while (due_s := self._now_s() + tick_s) < started[0] + period_s + tick_s:
                await asyncio.sleep(tick_s)
                late_s.append(self._now_s() - due_s)
            wall_s, cpu_s = self._now_s() - started[0], self._cpu_s() - started[1]
            lag_s = sorted(late_s)[int(_LATE_FRACTION * (len(late_s) - 1))]
            self._latest = {BUSY: cpu_s / wall_s, LAG_S: max(0.0, lag_s)}
            self._busy.set(self._latest[BUSY])
            self._lag_s.set(self._latest[LAG_S])
            self._looks.inc()
