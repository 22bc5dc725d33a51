"""The order of candidates that break nothing. Pure."""

from __future__ import annotations

import math

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.load import Objectives
from galerne.topology import Mode

_ORDER = {
    Mode.LATENCY: ("completion_s", "nodes", "slack", "max_requests_per_s"),
    Mode.THROUGHPUT: ("max_requests_per_s", "nodes", "slack", "completion_s"),
    None: ("nodes", "slack", "completion_s", "max_requests_per_s"),  # auto
}
_GRAIN = 0.05  # a difference below what a prediction can tell apart; it decides only between equals
_MORE_IS_BETTER = frozenset({"slack", "max_requests_per_s"})


def criteria(mode: Mode | None) -> tuple[str, ...]:
    """What counts in a mode (None: auto), most important first; the last two break ties."""
    return (*_ORDER[mode], "ttft_p95_s", "inter_token_p95_s")


def value_of(
    criterion: str, candidate: Candidate, prediction: Prediction, objectives: Objectives
) -> float:
    """A criterion's number as people read it."""
    if criterion == "nodes":
        return num_nodes(candidate)
    if criterion == "slack":
        return slack(prediction, objectives)
    return float(getattr(prediction, criterion))


def rank_key(
    candidate: Candidate, prediction: Prediction, objectives: Objectives, mode: Mode | None
) -> tuple[float, ...]:
    """Smaller is better. Whoever is at least as good in every criterion has no larger key.

    First by all criteria in grains of 5 %, so that no machine is taken and no topology changed for
    less than a prediction can tell; then by the exact numbers.
    """
    names = criteria(mode)
    values = [value_of(name, candidate, prediction, objectives) for name in names]
    signs = [-1 if name in _MORE_IS_BETTER else 1 for name in names]
    coarse = (
        sign * _coarse(name, value) for name, sign, value in zip(names, signs, values, strict=True)
    )
    exact = (sign * value for sign, value in zip(signs, values, strict=True))
    return (*coarse, *exact)


def _coarse(criterion: str, value: float) -> float:
    """In grains: of the value itself, or of a promise."""
    if criterion == "nodes" or not math.isfinite(value):
        return value
    if criterion == "slack":
        return math.floor(value / _GRAIN)
    return math.floor(math.log(value) / _GRAIN) if value > 0 else -math.inf


def slack(prediction: Prediction, objectives: Objectives) -> float:
    """Part of the tightest promise that is left; 0 without a promise, negative if broken."""
    promises = (
        (objectives.ttft_p95_s, prediction.ttft_p95_s),
        (objectives.inter_token_p95_s, prediction.inter_token_p95_s),
    )
    return min((1 - value / limit for limit, value in promises if limit), default=0.0)


def tie_key(candidate: Candidate) -> tuple[str | int, ...]:
    """A fixed order of candidates that nothing else tells apart: the simpler first."""
    return (
        candidate.transport is not candidate.transport.LOCAL,
        candidate.shards,
        candidate.replicas,
        candidate.micro_batches,
        candidate.gateways,
        candidate.max_num_seqs,
        candidate.max_batched_tokens,
        candidate.transport.value,
        candidate.mode.value,
        candidate.shard_nodes,
        candidate.gateway_nodes,
    )
