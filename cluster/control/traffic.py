"""What gateways say of their load, put together for the autoscaler. No clock, no Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.control.members import GONE_AFTER_S, HEARTBEAT_S, Heartbeat
from cluster.control.period import Period
from cluster.planning.candidate import Candidate
from cluster.planning.decision import Measured
from cluster.planning.observed import Observed, ObservedWindow
from cluster.planning.refresh import ObservedSteps
from router.engine.load_counter import LoadTotals

WINDOW_S = 60.0
FORGET_AFTER_S = 3600.0  # of silence; who comes back then begins anew
_NUM_BINS = 60
_LAG_S = HEARTBEAT_S + 0.5  # until every gateway has told what came
_AN_INSTANT_S = 1e-6
_DRIFT = 1e-4  # of two clocks, at most


@dataclass(slots=True)
class _Known:
    """The newest report of a process."""

    told: LoadTotals
    heard_s: float
    born_s: float  # when its counters began, by our clock


class TrafficBook:
    """Differences of cumulative reports, so that lost, doubled and late ones change no sum.

    Args:
        start_s: When watching began. What older processes counted before that is left out.
        window_s: Of the observation; rounded up to whole seconds by bin, for arrivals are told by
            the second.
    """

    def __init__(self, start_s: float, window_s: float = WINDOW_S) -> None:
        self._bin_s = math.ceil(window_s / _NUM_BINS)
        num_bins = math.ceil(window_s / self._bin_s)
        self._window = ObservedWindow(num_bins * self._bin_s, start_s, num_bins)
        self._start_s = start_s
        self.period = Period(start_s, self._window.window_s)
        self._known: dict[tuple[str, int, str], _Known] = {}  # in the order of first reports

    def hear(self, told: Heartbeat, now_s: float) -> None:
        """Take in a heartbeat; one without a load says nothing, nor does an old one."""
        load = told.load
        if load is None:
            return
        born_s = now_s - load.age_s
        known = self._known.get(told.process)
        if known is None:
            is_ours = load.age_s <= min(now_s - self._start_s, FORGET_AFTER_S)
            before = LoadTotals() if is_ours else load
            known = self._known[told.process] = _Known(before, now_s, born_s)
        elif load.age_s <= known.told.age_s:
            return
        # A report is never early, so the quickest one tells best when the process began.
        known.born_s = min(known.born_s + _DRIFT * (now_s - known.heard_s), born_s)
        self._count(load.since(known.told), known, now_s)
        known.told, known.heard_s = load, now_s

    def _count(self, new: LoadTotals, known: _Known, now_s: float) -> None:
        num_untold = new.arrivals - sum(new.arrivals_by_second.values())
        self._window.came(known.heard_s, num_untold)
        for second, num in new.arrivals_by_second.items():
            self._window.came(min(now_s, known.born_s + second + 0.5), num)
        self._window.counted(now_s, new)
        self.period.add(new, now_s)

    def observe(self, now_s: float) -> Observed:
        """The load lately, and the queues now of all processes that have reported lately.

        The window ends with the last bin of which all has been told: one that lacks its end would
        look like a sudden calm.
        """
        for process, known in list(self._known.items()):
            if now_s - known.heard_s > FORGET_AFTER_S:
                del self._known[process]
        newest = {part: known for (part, _, _), known in self._known.items()}
        live = [k.told for k in newest.values() if now_s - k.heard_s < GONE_AFTER_S]
        waiting, running = sum(t.waiting for t in live), sum(t.running for t in live)
        self._window.queues(now_s, waiting, running, sum(t.parked for t in live))
        end_s = math.floor((now_s - _LAG_S) / self._bin_s) * self._bin_s
        return self._window.observe(end_s - _AN_INSTANT_S)

    def start_period(self, now_s: float) -> None:
        """From now on ``measured`` counts anew."""
        self.period = Period(now_s, self._window.window_s)

    def measured(self, now_s: float) -> tuple[Measured, tuple[float | None, int]]:
        """See ``Period``."""
        return self.period.measured(now_s, self._window.observe(now_s).load)

    def take_steps(self, candidate: Candidate, now_s: float) -> ObservedSteps | None:
        """See ``Period``."""
        return self.period.take_steps(candidate, now_s)
