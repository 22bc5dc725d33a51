"""Learning rates."""

from __future__ import annotations

WARM_UP = 100
DECAY_FROM = 0.3  # share of the steps after which the rate falls
ROUNDED_FROM = 0.85  # share after which the weights are those that fp8 can hold


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, then a straight line to 2 % of the peak at the last step."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    fall = (step / steps - DECAY_FROM) / (1 - DECAY_FROM)
    return peak * (1 - 0.98 * max(fall, 0.0))


def balance_weight(step: int, steps: int) -> float:
    """Weight of the load-balancing term: enough at first to keep all experts alive, then little.

    At a constant 0.01 the load flattens more and more; natural skew is what a server meets.
    """
    return 0.01 if step < steps * 0.2 else 0.002
