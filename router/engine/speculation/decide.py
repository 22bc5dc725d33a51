"""How many guesses pay: tokens per second with them against without. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from router.engine.speculation.acceptance import expected_tokens

Seconds: TypeAlias = Callable[[int], float | None]  # by rows, or by guesses; None: not known yet


class Decision(NamedTuple):
    """Guesses per sequence, and the speed that they promise against none."""

    num_draft_tokens: int
    gain: float  # 0.1: a tenth more tokens per second


def decide(
    num_sequences: int,
    coverage: float,
    rates: Sequence[float],
    step_s: Seconds,
    draft_s: Seconds,
    min_gain: float,
) -> Decision:
    """The number of guesses per sequence with the most tokens per second.

    Args:
        num_sequences: That decode in the step.
        coverage: Share of them that the source has guesses for.
        rates: Share of right guesses by place, for as many places as a draft may have.
        step_s: Seconds of a step by rows.
        draft_s: Seconds that so many guesses per sequence take to make.
        min_gain: What a gain must exceed to count: 0.03 for three hundredths.

    Returns:
        None (0) where nothing is gained. Where the time of a step is not known at all, as many as
        may be: it will be measured.
    """
    none_s = step_s(num_sequences)
    if none_s is None:
        return Decision(len(rates), 0.0)
    best = Decision(0, 0.0)
    for count in range(1, len(rates) + 1):
        rows = num_sequences + max(1, round(num_sequences * coverage * count))
        with_s = (step_s(rows) or none_s) + (draft_s(count) or 0.0)
        tokens = 1 + coverage * (expected_tokens(rates, count) - 1)
        gain = tokens * none_s / max(with_s, 1e-9) - 1
        if gain > max(best.gain, min_gain):
            best = Decision(count, gain)
    return best


def allot(
    lengths: Sequence[int], rates: Sequence[Sequence[float]], num_rows: int, step_s: Seconds
) -> list[int]:
    """How many guesses of each draft a step should verify, now that they are made.

    Takes guesses in order of their chance to be right, which falls along a draft, and stops where
    tokens per second are most.

    Args:
        lengths: Guesses of each draft.
        rates: Share of right ones by place, of each.
        num_rows: Rows of the step without guesses; each gives a token.
        step_s: Seconds of a step by rows.

    Source: goodput as in SmartSpec, arXiv:2406.14066, section 4, with a choice for each draft.
    """
    taken = [0] * len(lengths)
    best = taken.copy()
    base_s = step_s(num_rows)
    if base_s is None:
        return list(lengths)
    # (chance, draft) of each draft's next guess, the best one first; the lower index on a tie
    queue = [(-r[0], i) for i, (n, r) in enumerate(zip(lengths, rates, strict=True)) if n]
    heapq.heapify(queue)
    tokens, rows, most = float(num_rows), num_rows, num_rows / max(base_s, 1e-9)
    while queue:
        minus, index = heapq.heappop(queue)
        tokens, rows = tokens - minus, rows + 1
        taken[index] += 1
        place = taken[index]
        if place < lengths[index]:
            heapq.heappush(queue, (minus * rates[index][place], index))
        speed = tokens / max(step_s(rows) or base_s, 1e-9)
        if speed > most:
            most, best = speed, taken.copy()
    return best
