"""Waiting times, and the load at which a gateway's steps settle. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_MAX_STEPS = 100
_NUM_SECANTS = 6
_TOLERANCE = 1e-6  # relative


@dataclass(frozen=True, slots=True)
class Wait:
    """A time that is 0 or, with a probability, exponential."""

    probability: float
    mean_if_any_s: float

    @property
    def mean_s(self) -> float:
        """Over all requests."""
        return self.probability * self.mean_if_any_s

    def percentile_s(self, fraction: float) -> float:
        """Seconds that ``fraction`` of all requests do not exceed."""
        beyond = 1 - fraction
        if self.probability <= beyond:
            return 0.0
        return self.mean_if_any_s * math.log(self.probability / beyond)


NO_WAIT = Wait(0.0, 0.0)


def admission_wait(rate: float, capacity: float, probability: float, *, variation: float) -> Wait:
    """Wait for a slot, where an arrival finds all taken with ``probability``.

    ``rate`` and ``capacity`` in requests/s, ``rate < capacity``. ``variation``: mean of the squared
    coefficients of variation of arrivals and lengths.

    Source: Allen-Cunneen, W = P(all taken) · variation / (c mu - lambda).
    """
    return Wait(probability, variation / (capacity - rate))


def prefill_wait(share: float, service_s: float, *, variation: float) -> Wait:
    """Wait behind other prompts, which have ``share`` of the prefill budget, each ``service_s``.

    Source: Kingman, W = rho / (1 - rho) · variation · service.
    """
    if share <= 0:
        return NO_WAIT
    share = min(share, 1 - 1e-9)
    return Wait(share, variation * service_s / (1 - share))


def fixed_point(function: Callable[[float], float], low: float, high: float) -> float:
    """The x in [low, high] with ``function(x) == x``.

    ``function(low) >= low`` and ``function(high) <= high``, to within rounding; its quotient with x
    falls, so that there is one such x. Secants from below, which need few evaluations where the
    load is small; once there is a bracket, false position, Illinois variant.
    """
    above = function(low) - low
    if above <= 0:
        return low
    middle = low + above
    for _ in range(_NUM_SECANTS):
        middle = min(middle, high)
        value = function(middle) - middle
        if abs(value) <= _TOLERANCE * middle:
            return middle
        if value < 0:
            return _between(function, (low, above), (middle, value))
        if middle == high:
            return high
        ahead = value * (middle - low) / (above - value) if value < above else math.inf
        low, above, middle = middle, value, middle + max(value, ahead)
    below = function(high) - high
    return high if below >= 0 else _between(function, (low, above), (high, below))


def _between(
    function: Callable[[float], float], lower: tuple[float, float], upper: tuple[float, float]
) -> float:
    """Each end with its ``function(x) - x``, above and below 0."""
    (low, above), (high, below) = lower, upper
    last = 0
    for _ in range(_MAX_STEPS):
        middle = (low * below - high * above) / (below - above)
        value = function(middle) - middle
        if abs(value) <= _TOLERANCE * middle:
            return middle
        if value > 0:
            low, above = middle, value
            below = below / 2 if last > 0 else below
            last = 1
        else:
            high, below = middle, value
            above = above / 2 if last < 0 else above
            last = -1
    return (low + high) / 2
