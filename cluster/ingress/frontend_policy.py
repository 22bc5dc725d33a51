"""How many frontends there are to be: the pure decision, and the policy by which Serve asks for it.

Ray Serve takes this module by value into its own controller: it imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# What a frontend tells of itself (``record_autoscaling_stats``), each a mean since it last did.
BUSY, LAG_S = "galerne_busy", "galerne_loop_lag_s"

# A frontend is one event loop, so it is saturated near one core. Between these two nothing changes.
HIGH_BUSY, LOW_BUSY = 0.7, 0.4  # cores for each frontend
# A loop that comes late to what is due is saturated at fewer cores too; an idle one that comes late
# is starved by others, and another frontend would only starve beside it.
LATE_S, LATE_BUSY = 0.05, 0.5
FRESH_S = 35.0  # Serve brings samples every 10 s, of up to 6 s before


@dataclass(frozen=True)
class FrontendLoad:
    """One frontend over the window."""

    busy: float  # cores that its process takes
    lag_s: float  # how late its event loop comes to what is due

    @property
    def pressure(self) -> float:
        """Cores that it would take if it could."""
        is_late = self.lag_s >= LATE_S and self.busy >= LATE_BUSY
        return max(self.busy, 1.0) if is_late else self.busy


class Sample(Protocol):
    """As Serve's ``TimeStampedValue``."""

    timestamp: float  # of the wall clock, seconds
    value: float


def wanted_frontends(
    current: int, loads: Sequence[FrontendLoad], *, at_least: int, at_most: int
) -> int:
    """So many frontends, within bounds. Pure.

    So few that none has more than ``HIGH_BUSY`` to do, and no more than have ``LOW_BUSY`` each;
    between these ``current`` stays, so that a load that does not change is answered once.

    Args:
        current: Frontends that there are.
        loads: Of all of them; empty: nobody knows, so nothing changes.
        at_least: Bound, 1 or more.
        at_most: Bound.
    """
    wanted = current
    if loads:
        needed = _at_least(sum(load.pressure for load in loads) / HIGH_BUSY)
        enough = max(1, _at_least(sum(load.busy for load in loads) / LOW_BUSY))
        wanted = min(max(current, needed), enough)
    return max(at_least, min(at_most, wanted))


def _at_least(number: float) -> int:
    return math.ceil(number - 1e-9)  # the same sum of other parts must give the same


def loads_of(
    busy: Mapping[Any, Sequence[Sample]],
    lag_s: Mapping[Any, Sequence[Sample]],
    frontends: Iterable[Any],
    since_s: float,
    now_s: float,
) -> list[FrontendLoad]:
    """Means since all frontends have told of themselves. Pure.

    Args:
        busy: Samples of every frontend, oldest first.
        lag_s: Likewise.
        frontends: Those that run.
        since_s: What is older was another number of frontends.
        now_s: By the clock of the samples.

    Returns:
        One for each; none at all if one of them has not told anything lately.
    """
    told = [(busy.get(one, ()), lag_s.get(one, ())) for one in frontends]
    if not all(cores and late for cores, late in told):
        return []
    # A new one takes work from the others: what they had to do before it came is over.
    first_s = max([since_s, *(cores[0].timestamp for cores, _ in told)])
    loads = []
    for cores, late in told:
        seen = [sample.value for sample in cores if sample.timestamp >= first_s]
        waits = [sample.value for sample in late if sample.timestamp >= first_s]
        if not seen or not waits or now_s - cores[-1].timestamp > FRESH_S:
            return []
        loads.append(FrontendLoad(sum(seen) / len(seen), sum(waits) / len(waits)))
    return loads


def scale_frontends(context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - Serve's
    """Serve's ``policy_function``; its delays and bounds come after this.

    Args:
        context: ``ray.serve.config.AutoscalingContext``.

    Returns:
        Frontends, and no state: Serve keeps the delays' own.
    """
    current, running = context.target_num_replicas, context.running_replicas
    loads: list[FrontendLoad] = []
    if len(running) == current:  # else a change is under way
        metrics = context.raw_metrics or {}
        changed_s = max(context.last_scale_up_time or 0.0, context.last_scale_down_time or 0.0)
        since_s = max(changed_s, context.current_time - context.config.look_back_period_s)
        told = metrics.get(BUSY, {}), metrics.get(LAG_S, {})
        loads = loads_of(*told, running, since_s, context.current_time)
    bounds = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return wanted_frontends(current, loads, at_least=max(1, bounds[0]), at_most=bounds[1]), {}
