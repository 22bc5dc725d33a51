"""What the autoscaler knows from before. Values only: each step gives the next memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from cluster.planning.candidate import Candidate
from cluster.planning.decision import Action, Decision
from cluster.planning.scaler_config import ScalerConfig

_LEAST_PAUSE_S = 1.0  # to be doubled
_MOST_DOUBLED = 30  # times, far beyond any limit


class Peak(NamedTuple):
    """A load that was seen."""

    at_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeInFlight:
    """A change that was started and has neither been committed nor failed."""

    target: Candidate | None  # None: to zero
    started_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Between two decisions."""

    change: ChangeInFlight | None = None
    last_change_s: float = -math.inf  # when one ended, committed or not
    num_failed: int = 0  # changes that were undone, one after the other, up to the last one
    no_nodes_until_s: float = -math.inf  # nodes were asked for in vain; not asked again till then
    peaks: tuple[Peak, ...] = ()  # of the last ``hold_s``, each higher than all after it

    def after(self, decision: Decision, config: ScalerConfig) -> Memory:
        """What a decision leaves to remember.

        Raises:
            ValueError: It starts a change while one is in flight.
        """
        memory = self.seen(decision, config)
        if decision.action is Action.HOLD:
            return memory
        if decision.action is Action.GIVE_UP:
            # Not a change that ended: the next best may be taken at once.
            until_s = decision.at_s + config.remember_s
            return replace(memory, change=None, no_nodes_until_s=until_s)
        if self.change is not None:
            raise ValueError("a change is in flight")
        target = None if decision.action is Action.TO_ZERO else decision.target
        started = ChangeInFlight(target=target, started_s=decision.at_s)
        return replace(memory, change=started)

    def seen(self, decision: Decision, config: ScalerConfig) -> Memory:
        """What remains of a decision that nothing comes of: the load it was made for."""
        new = Peak(decision.at_s, decision.observed.latest_requests_per_s)
        begin_s = new.at_s - config.hold_s
        kept = (p for p in self.peaks if p.requests_per_s > new.requests_per_s)
        return replace(self, peaks=(*(p for p in kept if p.at_s >= begin_s), new))

    @property
    def busiest(self) -> Peak:
        """The highest load of the last ``hold_s``."""
        return self.peaks[0] if self.peaks else Peak(-math.inf, 0.0)

    def change_ended(self, now_s: float, *, has_failed: bool = False) -> Memory:
        """The change in flight was committed, or aborted without effect."""
        num_failed = self.num_failed + 1 if has_failed else 0
        return replace(self, change=None, last_change_s=now_s, num_failed=num_failed)

    def pause_s(self, usual_s: float, config: ScalerConfig) -> float:
        """Seconds from the last change to the next, which are ``usual_s`` but after a failure.

        Then they grow by a factor of two: what has failed would mostly fail again, and each time
        parts load for nothing beside those that serve.
        """
        if not self.num_failed:
            return usual_s
        grown_s = max(config.settle_s, _LEAST_PAUSE_S) * 2.0 ** min(self.num_failed, _MOST_DOUBLED)
        return max(usual_s, min(grown_s, config.remember_s))

    def last_text(self, since_s: float) -> str:
        """In words, of a last change that ended so many seconds ago."""
        if self.num_failed > 1:
            return f"the last {self.num_failed} changes failed, the last one {since_s:.0f} s ago"
        what = "failed" if self.num_failed else "was"
        return f"the last change {what} {since_s:.0f} s ago"

    def change_refused(self) -> Memory:
        """The change in flight could not begin: it is no change that ended."""
        return replace(self, change=None)
