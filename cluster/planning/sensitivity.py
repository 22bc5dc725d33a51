"""At which load a decision would be another one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.planning.candidate import Candidate
from cluster.planning.load import Load
from galerne.topology import LinkTransport

_NUM_RIVALS = 6  # candidates of each kind below that are compared
_NUM_RATES = 8  # looked at between now and the most that the chosen one carries
_PRECISION = 0.005  # relative

# Smaller is better; the first component is the number of broken limits.
Order = Callable[[Candidate, Load], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Switch:
    """The lowest rate above the present one at which another candidate is chosen."""

    now_requests_per_s: float
    requests_per_s: float
    candidate: Candidate | None  # None: at that rate every candidate breaks a limit

    def __str__(self) -> str:
        at = f"at {self.requests_per_s:.3g} req/s; now {self.now_requests_per_s:.3g}"
        if self.candidate is None:
            return f"nothing keeps all limits {at}"
        return f"switches to {describe(self.candidate)} {at}"


def describe(candidate: Candidate) -> str:
    """Mode, shape and caps in words."""
    if candidate.transport is LinkTransport.LOCAL:
        shards = "local experts"
    else:
        shards = f"{_count(candidate.shards, 'shard')} x {_count(candidate.replicas, 'replica')}"
        shards += f" over {candidate.transport.value}"
    gateways = _count(candidate.gateways, "gateway")
    caps = f"{candidate.max_num_seqs} sequences, {candidate.max_batched_tokens} tokens a step"
    micro = f", {candidate.micro_batches} micro-batches" if candidate.micro_batches > 1 else ""
    return f"{candidate.mode.value} with {shards}, {gateways}{micro}, {caps}"


def next_switch(
    chosen: Candidate, max_rates: Mapping[Candidate, float], load: Load, order: Order
) -> Switch:
    """Looks upwards from the load's rate, in equal ratios, then by bisection.

    ``max_rates``: all candidates, best first, with the requests/s that each could carry. Compared
    are the best of now and those that carry most, so that the search stays small in a large
    cluster: a switch to any other may be reported at too high a rate, never at too low a one.
    """
    rivals = _rivals(chosen, max_rates)

    def best_at(rate: float) -> Candidate | None:
        at = replace(load, requests_per_s=rate)
        keys = [(order(candidate, at), candidate) for candidate in rivals]
        key, candidate = min(keys, key=lambda pair: pair[0])
        return None if key[0] else candidate

    # A little beyond what it carries, where it is certainly another one.
    now, most = load.requests_per_s, max_rates[chosen] * (1 + _PRECISION / 2)
    low = now
    for step in range(1, _NUM_RATES + 1):
        start = max(now, most / 1000)
        high = start * (most / start) ** (step / _NUM_RATES)
        best = best_at(high)
        if best != chosen:
            break
        low = high
    while high - low > _PRECISION * max(high, most / 100):
        middle = (low + high) / 2
        found = best_at(middle)
        if found == chosen:
            low = middle
        else:
            high, best = middle, found
    return Switch(now, high, best)


def _rivals(chosen: Candidate, max_rates: Mapping[Candidate, float]) -> list[Candidate]:
    best = list(max_rates)[:_NUM_RIVALS]
    # Of those that carry more, the nearest: a planner takes the least that is enough.
    more = sorted(
        (c for c in max_rates if max_rates[c] > max_rates[chosen]), key=lambda c: max_rates[c]
    )
    return list(dict.fromkeys([chosen, *best, *more[:_NUM_RIVALS], *more[-_NUM_RIVALS:]]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
