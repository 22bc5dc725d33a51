"""Arrivals: Poisson, bursts, a day's curve, or a record. One seed gives one sequence."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from galerne.errors import ConfigError


class Arrival(NamedTuple):
    """One request."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Token counts of requests: gamma distributed around a mean, at least 1.

    ``cv2`` is the squared coefficient of variation; 0: all are alike, 1: exponential.
    """

    prompt_mean: float
    output_mean: float
    cv2: float = 0.0

    def draw(self, chance: random.Random) -> tuple[int, int]:
        """Prompt and output tokens of one request."""
        return self._draw(chance, self.prompt_mean), self._draw(chance, self.output_mean)

    def _draw(self, chance: random.Random, mean: float) -> int:
        value = mean if not self.cv2 else chance.gammavariate(1 / self.cv2, mean * self.cv2)
        return max(1, round(value))


def poisson(
    requests_per_s: float, lengths: Lengths, seconds: float, seed: int, start_s: float = 0.0
) -> Iterator[Arrival]:
    """Independent requests at a constant rate from ``start_s`` on."""
    chance = random.Random(seed)  # noqa: S311  # a workload, no secret
    yield from _poisson(chance, requests_per_s, lengths, start_s, start_s + seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """A Poisson process whose rate jumps between two values (MMPP-2)."""

    quiet_requests_per_s: float
    burst_requests_per_s: float
    quiet_mean_s: float  # exponential stays
    burst_mean_s: float

    @classmethod
    def of_mean(cls, requests_per_s: float) -> Bursts:
        """Four minutes at half the rate, two at twice the rate, both in the mean."""
        return cls(
            quiet_requests_per_s=requests_per_s / 2,
            burst_requests_per_s=2 * requests_per_s,
            quiet_mean_s=240.0,
            burst_mean_s=120.0,
        )

    @property
    def mean_requests_per_s(self) -> float:
        """Over a long time."""
        whole = self.quiet_mean_s + self.burst_mean_s
        return (
            self.quiet_requests_per_s * self.quiet_mean_s
            + self.burst_requests_per_s * self.burst_mean_s
        ) / whole


def burst_phases(rates: Bursts, seconds: float, seed: int) -> Iterator[tuple[float, float]]:
    """Rate and length of every quiet or busy time; it begins quiet."""
    chance = random.Random(seed)  # noqa: S311  # a workload, no secret
    left_s, is_burst = seconds, False
    while left_s > 0:
        mean_s = rates.burst_mean_s if is_burst else rates.quiet_mean_s
        rate = rates.burst_requests_per_s if is_burst else rates.quiet_requests_per_s
        lasts_s = min(left_s, chance.expovariate(1 / mean_s))
        yield rate, lasts_s
        left_s, is_burst = left_s - lasts_s, not is_burst


def bursts(rates: Bursts, lengths: Lengths, seconds: float, seed: int) -> Iterator[Arrival]:
    """Requests in bursts, as ``burst_phases`` has them."""
    return phases(burst_phases(rates, seconds, seed), lengths, seed)


def varying(
    rate_at: Callable[[float], float],
    most_requests_per_s: float,
    lengths: Lengths,
    seconds: float,
    seed: int,
) -> Iterator[Arrival]:
    """A Poisson process of any rate below ``most_requests_per_s``, by thinning (Lewis, Shedler).

    Raises:
        ValueError: The rate exceeds the bound somewhere.
    """
    chance = random.Random(seed)  # noqa: S311  # a workload, no secret
    for arrival in _poisson(chance, most_requests_per_s, lengths, 0.0, seconds):
        rate = rate_at(arrival.at_s)
        if rate > most_requests_per_s * (1 + 1e-9):
            raise ValueError(f"{rate} requests/s at {arrival.at_s} s, above the bound")
        if chance.random() * most_requests_per_s < rate:
            yield arrival


def day(
    least_requests_per_s: float,
    most_requests_per_s: float,
    lengths: Lengths,
    seconds: float,
    seed: int,
    period_s: float = 86_400.0,
) -> Iterator[Arrival]:
    """A day's curve: a cosine from the least rate at the start to the most half a period later."""
    swing = (most_requests_per_s - least_requests_per_s) / 2

    def rate_at(now_s: float) -> float:
        return least_requests_per_s + swing * (1 - math.cos(2 * math.pi * now_s / period_s))

    return varying(rate_at, most_requests_per_s, lengths, seconds, seed)


def phases(
    rate_and_seconds: Iterable[tuple[float, float]], lengths: Lengths, seed: int
) -> Iterator[Arrival]:
    """One constant rate after the other, such as quiet, steady, burst, quiet."""
    chance = random.Random(seed)  # noqa: S311  # a workload, no secret
    now_s = 0.0
    for rate, seconds in rate_and_seconds:
        yield from _poisson(chance, rate, lengths, now_s, now_s + seconds)
        now_s += seconds


def read_arrivals(file: Path) -> list[Arrival]:
    """A recorded load: in every line JSON, ``[seconds, prompt tokens, output tokens]``.

    Raises:
        ConfigError: There is no such file, or a line is no arrival; names the line.
    """
    if not file.is_file():
        known = "poisson, burst, day, a directory of serve --record, or a file of arrivals"
        raise ConfigError("workload", file, f"is {known}")
    return [_read(file, *line) for line in enumerate(file.read_bytes().splitlines(), 1)]


def _read(file: Path, number: int, line: bytes) -> Arrival:
    try:
        at_s, prompt_tokens, output_tokens = json.loads(line)
        arrival = Arrival(float(at_s), int(prompt_tokens), int(output_tokens))
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"workload line {number}", file, f"no arrival: {error}") from None
    if not (0 <= arrival.at_s < math.inf and arrival.prompt_tokens > 0 < arrival.output_tokens):
        problem = f"seconds must be at least 0 and tokens at least 1, got {list(arrival)}"
        raise ConfigError(f"workload line {number}", file, problem)
    return arrival


def replay(recorded: Iterable[Arrival], speed: float = 1.0) -> Iterator[Arrival]:
    """What was recorded, in order of arrival, ``speed`` times as fast.

    Raises:
        ValueError: ``speed`` is not above 0.
    """
    if speed <= 0:
        raise ValueError(f"speed must be above 0, got {speed}")
    ordered = sorted(recorded)
    first_s = ordered[0].at_s if ordered else 0.0
    for arrival in ordered:
        yield arrival._replace(at_s=(arrival.at_s - first_s) / speed)


def _poisson(
    chance: random.Random, rate: float, lengths: Lengths, start_s: float, end_s: float
) -> Iterator[Arrival]:
    if rate <= 0:
        return
    now_s = start_s + chance.expovariate(rate)
    while now_s < end_s:
        yield Arrival(now_s, *lengths.draw(chance))
        now_s += chance.expovariate(rate)
