"""How many sequences a gateway runs, as a distribution: who comes finds more or fewer. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_RATIO = 2  # between two sizes of a step that are computed; between them it is a line

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Steady state of one gateway."""

    step_s: _Floats  # [slots], of a decode step with 1, 2, ... sequences
    probabilities: _Floats  # [slots], that none, one, ... slots - 1 run
    waits: float  # probability that all slots are taken

    @cached_property
    def _tokens(self) -> _Floats:
        """``[slots]``, share of the tokens that come in a step of 1, 2, ... sequences."""
        running = np.append(self.probabilities[1:], self.waits)
        rates = np.arange(1, len(running) + 1) * running / self.step_s
        total = rates.sum()
        if total > 0:
            return rates / total  # type: ignore[no-any-return]
        rates[0] = 1.0
        return rates  # type: ignore[no-any-return]

    def gap_s(self, fraction: float, chunk_fraction: float, chunk_extra_s: float) -> float:
        """Seconds before a token that ``fraction`` of all tokens do not exceed.

        ``chunk_fraction`` of the steps take ``chunk_extra_s`` longer.
        """
        gaps = np.concatenate((self.step_s, self.step_s + chunk_extra_s))
        shares = (self._tokens * (1 - chunk_fraction), self._tokens * chunk_fraction)
        order = np.argsort(gaps, kind="stable")
        return float(gaps[order[_quantile(np.concatenate(shares)[order], fraction)]])

    def found(self, fraction: float) -> int:
        """Running sequences that an arrival does not find more of, with that probability."""
        return _quantile(np.append(self.probabilities, self.waits), fraction)


def occupancy(
    rate: float, output: float, slots: int, decode_s: Callable[[float], float], delay: float = 1.0
) -> Occupancy:
    """At ``rate`` requests/s of ``output`` tokens; ``decode_s`` of so many sequences.

    ``delay``: what arrivals make of a step, times a decode step.

    Source: birth and death; n sequences leave at ``n / (output · step_s(n))``. All share a step, so
    that only the mean length matters (processor sharing is insensitive; Kelly, 1979, section 3.3).
    """
    step_s = _interpolated(decode_s, slots)
    loads = rate * output * delay * step_s / np.arange(1, slots + 1)
    weights = np.append(1.0, np.cumprod(loads[:-1]))
    # Beyond the last slot they wait: a geometric tail.
    tail = weights[-1] * loads[-1] / max(1 - loads[-1], 1e-9)
    total = weights.sum() + tail
    return Occupancy(step_s, weights / total, float(tail / total))


def _interpolated(decode_s: Callable[[float], float], slots: int) -> _Floats:
    """``[slots]``, seconds of 1, 2, ... sequences."""
    sizes = [1]
    while sizes[-1] < slots:
        sizes.append(min(sizes[-1] * _RATIO, slots))
    known_s = [decode_s(float(size)) for size in sizes]
    seconds: _Floats = np.interp(np.arange(1, slots + 1), sizes, known_s)
    return seconds


def _quantile(probabilities: _Floats, fraction: float) -> int:
    """The first place up to which they add up to the fraction; the last one if none does."""
    place = int(np.searchsorted(np.cumsum(probabilities), fraction))
    return min(place, len(probabilities) - 1)
