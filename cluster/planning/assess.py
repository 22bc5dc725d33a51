"""Candidates under a load: what each would give, which break an objective, which is best."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.load import Load, Objectives

Predict = Callable[[Candidate, Load], Prediction]


class Constraint(enum.Enum):
    """What decides; ``COST`` when nothing forbids a better choice."""

    COST = "cost"
    CAPACITY = "capacity"
    TTFT = "ttft_p95"
    INTER_TOKEN = "inter_token_p95"
    MAX_NODES = "max_nodes"
    NODES_GIVEN_UP = "nodes_given_up"
    COPIES = "min_copies"
    HYSTERESIS = "hysteresis"
    COOL_DOWN = "cool_down"
    ONE_CHANGE = "one_change_in_flight"
    PENDING = "pending_nodes"
    IDLE = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be chosen, and how nodes weigh.

    ``node_weight`` w: a candidate costs completion time times nodes^w. 0: nodes are free. 1: twice
    the nodes must halve the completion time, so that a request takes the same node-seconds.
    """

    objectives: Objectives = field(default_factory=Objectives)
    node_weight: float = 1.0
    available_nodes: int | None = None  # more were asked for and did not come


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessed:
    """A candidate under a load."""

    candidate: Candidate
    prediction: Prediction
    cost: float  # seconds times nodes^w
    excess: float  # how many times over the objective it breaks most; 1: none is broken
    constraint: Constraint  # what it breaks, else COST
    refusal: str  # in words; empty if it may be chosen and holds all objectives
    is_allowed: bool  # else it may not be chosen whatever the load

    @property
    def key(self) -> tuple[bool, float, float, int]:
        """Order of preference, the best first."""
        return (not self.is_allowed, self.excess, self.cost, num_nodes(self.candidate))

    @property
    def holds(self) -> bool:
        """Whether it may be chosen and holds every objective."""
        return not self.refusal


def name_of(candidate: Candidate | None) -> str:
    """A candidate in a few words."""
    if candidate is None:
        return "zero"
    c = candidate
    nodes = num_nodes(c)
    return (
        f"{c.mode.value} {c.gateways}g {c.shards}s x{c.replicas} {c.transport.value} "
        f"m{c.micro_batches} b{c.max_num_seqs} on {nodes} node{'s' if nodes != 1 else ''}"
    )


def assess(candidate: Candidate, prediction: Prediction, load: Load, limits: Limits) -> Assessed:
    """Judge one candidate; the first limit that it breaks is named."""
    nodes = num_nodes(candidate)
    allowed, constraint, refusal = _permission(candidate, limits)
    excess = 1.0
    if not prediction.is_carried:
        # Above every broken latency: a queue that grows without end breaks them all.
        excess = 1e6 * max(1.0, prediction.utilisation)
        broken = (
            Constraint.CAPACITY,
            f"carries {prediction.max_requests_per_s:.3g} of {load.requests_per_s:.3g} requests/s",
        )
    else:
        excess, broken = _worst_latency(prediction, limits.objectives)
    if allowed and broken[1]:
        constraint, refusal = broken
    return Assessed(
        candidate=candidate,
        prediction=prediction,
        cost=prediction.completion_s * max(1, nodes) ** limits.node_weight,
        excess=excess,
        constraint=constraint,
        refusal=refusal,
        is_allowed=allowed,
    )


def under(
    candidate: Candidate, predict: Predict, load: Load, limits: Limits, stress: Load | None = None
) -> Assessed:
    """Cost under ``load``; what it breaks, under ``stress`` if given.

    A queue is a load that passes: a candidate must carry it, but need not be cheap for it.
    """
    usual = assess(candidate, predict(candidate, load), load, limits)
    if stress is None or stress == load:
        return usual
    hard = assess(candidate, predict(candidate, stress), stress, limits)
    return replace(usual, excess=hard.excess, constraint=hard.constraint, refusal=hard.refusal)


def rank(
    candidates: Sequence[Candidate],
    predict: Predict,
    load: Load,
    limits: Limits,
    stress: Load | None = None,
) -> tuple[Assessed, ...]:
    """All candidates ``under`` the loads, the best first.

    Those that hold every objective by cost, then those that break one, least first, then those that
    may not be chosen.

    Raises:
        ValueError: There is no candidate.
    """
    if not candidates:
        raise ValueError("no candidate")
    assessed = (under(c, predict, load, limits, stress) for c in candidates)
    return tuple(sorted(assessed, key=lambda a: a.key))


def gain(old: Assessed, new: Assessed) -> float:
    """Share of the cost that a change saves; 1 where the old one breaks more than the new one."""
    if old.excess > new.excess * 1.001:
        return 1.0
    if new.excess > old.excess * 1.001 or not math.isfinite(new.cost):
        return 0.0
    if not math.isfinite(old.cost):
        return 1.0
    return 1.0 - new.cost / old.cost if old.cost > 0 else 0.0


def binding(ranked: Sequence[Assessed], chosen: Assessed) -> Constraint:
    """What keeps a cheaper candidate than the chosen one from being chosen."""
    cheaper = [a for a in ranked if a.cost < chosen.cost and a.refusal]
    if chosen.refusal:
        return chosen.constraint
    return min(cheaper, key=lambda a: a.cost).constraint if cheaper else Constraint.COST


def _permission(candidate: Candidate, limits: Limits) -> tuple[bool, Constraint, str]:
    nodes, objectives = num_nodes(candidate), limits.objectives
    if objectives.max_nodes is not None and nodes > objectives.max_nodes:
        return False, Constraint.MAX_NODES, f"needs {nodes} nodes of {objectives.max_nodes} at most"
    if limits.available_nodes is not None and nodes > limits.available_nodes:
        why = f"needs {nodes} nodes; more than {limits.available_nodes} did not come"
        return False, Constraint.NODES_GIVEN_UP, why
    copies = candidate.gateways if candidate.shards == 1 else candidate.replicas
    if copies < objectives.min_copies:
        why = f"holds {copies} of {objectives.min_copies} copies of an expert"
        return False, Constraint.COPIES, why
    return True, Constraint.COST, ""


def _worst_latency(
    prediction: Prediction, objectives: Objectives
) -> tuple[float, tuple[Constraint, str]]:
    """The most broken latency objective: times over it, and in words."""
    worst, broken = 1.0, (Constraint.COST, "")
    for constraint, name, value, limit in (
        (Constraint.TTFT, "TTFT", prediction.ttft_p95_s, objectives.ttft_p95_s),
        (
            Constraint.INTER_TOKEN,
            "inter-token",
            prediction.inter_token_p95_s,
            objectives.inter_token_p95_s,
        ),
    ):
        if limit is not None and value > limit * worst:
            worst = value / limit
            broken = (constraint, f"{name} p95 {value:.3g} s above {limit:.3g} s")
    return worst, broken
