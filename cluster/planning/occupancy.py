"""How many sequences a gateway runs, as a distribution: who comes finds more or fewer. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

_RATIO = 2  # between two sizes of a step that are computed; between them it is a line


@dataclass(frozen=True)
class Occupancy:
    """Steady state of one gateway."""

    step_s: Sequence[float]  # of a decode step with 1, 2, ... slots sequences
    probabilities: Sequence[float]  # that none, one, ... slots - 1 run
    waits: float  # probability that all slots are taken

    @cached_property
    def _tokens(self) -> list[float]:
        """Share of the tokens that come in a step of 1, 2, ... sequences."""
        running = [*self.probabilities[1:], self.waits]
        rates = [n * p / s for n, (p, s) in enumerate(zip(running, self.step_s, strict=True), 1)]
        total = sum(rates)
        return [rate / total for rate in rates] if total > 0 else [1.0, *[0.0] * (len(rates) - 1)]

    def gap_s(self, fraction: float, chunk_fraction: float, chunk_extra_s: float) -> float:
        """Seconds before a token that ``fraction`` of all tokens do not exceed.

        ``chunk_fraction`` of the steps take ``chunk_extra_s`` longer.
        """
        gaps = [
            gap
            for share, seconds in zip(self._tokens, self.step_s, strict=True)
            for gap in (
                (seconds, share * (1 - chunk_fraction)),
                (seconds + chunk_extra_s, share * chunk_fraction),
            )
        ]
        return _quantile(sorted(gaps), fraction)

    def found(self, fraction: float) -> int:
        """Running sequences that an arrival does not find more of, with that probability."""
        counts = enumerate([*self.probabilities, self.waits])
        return int(_quantile([(float(n), p) for n, p in counts], fraction))


def occupancy(
    rate: float, output: float, slots: int, decode_s: Callable[[float], float], delay: float = 1.0
) -> Occupancy:
    """At ``rate`` requests/s of ``output`` tokens; ``decode_s`` of so many sequences.

    ``delay``: what arrivals make of a step, times a decode step.

    Source: birth and death; n sequences leave at ``n / (output · step_s(n))``. All share a step, so
    that only the mean length matters (processor sharing is insensitive; Kelly, 1979, section 3.3).
    """
    step_s = list(_interpolated(decode_s, slots))
    loads = [rate * output * delay * seconds / n for n, seconds in enumerate(step_s, 1)]
    weights = list(itertools.accumulate(loads[:-1], lambda w, load: w * load, initial=1.0))
    # Beyond the last slot they wait: a geometric tail.
    tail = weights[-1] * loads[-1] / max(1 - loads[-1], 1e-9)
    total = sum(weights) + tail
    return Occupancy(step_s, [weight / total for weight in weights], tail / total)


def _interpolated(decode_s: Callable[[float], float], slots: int) -> Iterator[float]:
    """Seconds of 1, 2, ... slots sequences."""
    low, low_s = 1, decode_s(1.0)
    yield low_s
    while low < slots:
        high = min(low * _RATIO, slots)
        high_s = decode_s(float(high))
        for n in range(low + 1, high + 1):
            yield low_s + (high_s - low_s) * (n - low) / (high - low)
        low, low_s = high, high_s


def _quantile(values: Sequence[tuple[float, float]], fraction: float) -> float:
    """Of (value, probability) in order."""
    passed = 0.0
    for value, probability in values:
        passed += probability
        if passed >= fraction:
            return value
    return values[-1][0]
