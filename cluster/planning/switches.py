"""At which load another candidate would be best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.planning.assess import name_of
from cluster.planning.candidate import Candidate
from cluster.planning.load import Load

_STEP = 1.25  # of the rates looked at; a switch and back within one step is not seen
_REACH = 64.0  # times the present rate, up and down
_NUM_HALVINGS = 6  # of the last step: the switch is then known to 0.4 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """From this rate on another candidate is best."""

    requests_per_s: float
    to: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The next switches, at more and at less load; None: none within a factor of 64."""

    now_requests_per_s: float
    above: Switch | None
    below: Switch | None

    @property
    def text(self) -> str:
        """Such as ``switches to throughput 2g … at 37 req/s; now 29``."""
        parts = [
            f"switches to {name_of(s.to)} {word} {s.requests_per_s:.3g} req/s"
            for word, s in (("above", self.above), ("below", self.below))
            if s is not None
        ]
        return "; ".join([*parts, f"now {self.now_requests_per_s:.3g}"])


def sensitivity(best_at: Callable[[Load], Candidate], load: Load) -> Sensitivity:
    """Look for the switches by steps of 25 %, then by halving."""
    rate = load.requests_per_s
    start = max(rate, 1e-3)  # a step needs a length, also from zero
    return Sensitivity(
        now_requests_per_s=rate,
        above=_search(best_at, load, start, _STEP),
        below=_search(best_at, load, start, 1 / _STEP) if rate else None,
    )


def _search(
    best_at: Callable[[Load], Candidate], load: Load, start: float, step: float
) -> Switch | None:
    here = best_at(load)
    near = start
    for _ in range(math.ceil(math.log(_REACH) / math.log(_STEP))):
        far = near * step
        if best_at(replace(load, requests_per_s=far)) != here:
            return _halve(best_at, load, near, far, here)
        near = far
    return None


def _halve(
    best_at: Callable[[Load], Candidate], load: Load, near: float, far: float, here: Candidate
) -> Switch:
    for _ in range(_NUM_HALVINGS):
        middle = math.sqrt(near * far)
        if best_at(replace(load, requests_per_s=middle)) == here:
            near = middle
        else:
            far = middle
    return Switch(requests_per_s=far, to=best_at(replace(load, requests_per_s=far)))
