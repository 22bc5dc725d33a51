"""At which load a decision would be another one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, describe

_NUM_RATES = 8  # looked at in each direction; a switch and back between two of them is not seen
_REACH = 64.0  # times the present rate, downwards
_PRECISION = 0.005  # relative

# The best of some rivals at a rate; None: at that rate each of them breaks a limit.
BestAt = Callable[[float], Candidate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """From this rate on another candidate is chosen."""

    requests_per_s: float
    to: Candidate | None  # None: every candidate breaks a limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The next switches at more and at less load; None: there is none (below: within 1/64)."""

    now_requests_per_s: float
    above: Switch | None
    below: Switch | None

    @property
    def text(self) -> str:
        """Such as ``switches to throughput with … at 37 req/s; now 29``."""
        parts = [
            f"{_what(switch.to)} {word} {switch.requests_per_s:.3g} req/s"
            for word, switch in (("at", self.above), ("below", self.below))
            if switch is not None
        ]
        return "; ".join([*parts, f"now {self.now_requests_per_s:.3g}"])


def sensitivity(chosen: Candidate, now: float, most: float, best_at: BestAt) -> Sensitivity:
    """Looks from the present rate up and down, in equal ratios, then by bisection.

    Args:
        chosen: The best one now.
        now: Requests/s.
        most: Requests/s that it carries: above them it is certainly another one.
        best_at: Compares the rivals; those that it leaves out make a switch seem farther away,
            never nearer.
    """
    beyond = most * (1 + _PRECISION / 2)
    above = _search(chosen, now, max(now, beyond / 1000), beyond, best_at)
    below = _search(chosen, now, now, now / _REACH, best_at) if now > 0 else None
    return Sensitivity(now_requests_per_s=now, above=above, below=below)


def _search(
    chosen: Candidate, now: float, start: float, end: float, best_at: BestAt
) -> Switch | None:
    near = now
    for step in range(1, _NUM_RATES + 1):
        far = start * (end / start) ** (step / _NUM_RATES)
        best = best_at(far)
        if best != chosen:
            break
        near = far
    else:
        return None
    while abs(far - near) > _PRECISION * max(far, near, end / 100):
        middle = (near + far) / 2
        found = best_at(middle)
        if found == chosen:
            near = middle
        else:
            far, best = middle, found
    return Switch(requests_per_s=far, to=best)


def _what(to: Candidate | None) -> str:
    return "nothing keeps all limits" if to is None else f"switches to {describe(to)}"
