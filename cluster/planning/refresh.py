"""A calibration moved towards what gateways measure while they serve. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from cluster.planning.candidate import Candidate
from cluster.planning.costs import (
    Calibration,
    Cost,
    Curve,
    ExpertCost,
    Knot,
    Linear,
    LinkCosts,
    NodeCosts,
)
from cluster.planning.shape import ModelShape
from cluster.planning.step import StepWork, step_parts
from galerne.topology import LinkTransport
from router.engine.load_counter import DRAFT_PART

MAX_FACTOR = 4.0  # one observation claims at most so much more or less than what is known

# Names of a gateway's timers by what the cost model calls it.
_DENSE = ("projections", "attention", "gate", "shared expert", "combine")
_EXPERTS = ("experts and wire", "dispatch")
_HEAD = ("head",)
_MODEL = "model"  # whole passes: the parts above are inside
_AROUND = ("schedule", "sample", "emit", DRAFT_PART)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSteps:
    """What one gateway has reported of a while in which its topology stayed."""

    candidate: Candidate
    work: StepWork  # of a step, on average
    num_steps: int
    seconds_by_part: Mapping[str, float]  # of all these steps, by the names of its timers
    peers: float = 0.0  # other gateways in a step at the same time, on average


def refreshed(
    shape: ModelShape, calibration: Calibration, observed: ObservedSteps, weight: float
) -> Calibration:
    """The calibration with every part's costs times ``(observed / predicted) ** weight``.

    A running average of the logarithm: ``weight`` 0 keeps what is known, 1 takes what was seen.
    Whole parts are scaled, because one mean step tells a level and no slope. What a gateway waits
    for elsewhere is told in one sum: shards' experts and their link are scaled alike. Its timers
    run on while frontends have its cores, so ``answer`` is taken off all of them, and stays.

    Raises:
        ValueError: ``weight`` is outside [0, 1], or the calibration lacks the candidate's link.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    if observed.num_steps < 1:
        return calibration
    parts = step_parts(shape, calibration, observed.candidate, observed.work, peers=observed.peers)
    seen = _seen(observed, parts["answer"])
    factors = _Factors(
        dense=_factor(seen["dense"], parts["layer"] + parts["attention"], weight),
        experts=_factor(seen["experts"], parts["experts"] + parts["exchange"], weight),
        head=_factor(seen["head"], parts["head"], weight),
        step=_factor(seen["step"], parts["step"], weight),
    )
    transport = observed.candidate.transport
    gateway = _gateway(calibration.gateway, factors, is_local=transport is LinkTransport.LOCAL)
    if transport is LinkTransport.LOCAL:
        is_same = calibration.shard == calibration.gateway  # machines that are alike stay alike
        return replace(
            calibration, gateway=gateway, shard=gateway if is_same else calibration.shard
        )
    is_near = not observed.candidate.shard_nodes
    link = _scaled_link(calibration.links[transport], factors.experts)
    return replace(
        calibration,
        gateway=_with_shards(gateway, factors.experts) if is_near else gateway,
        shard=_with_shards(calibration.shard, factors.experts),
        links=dict(calibration.links) | {transport: link},
    )


class _Factors(NamedTuple):
    dense: float
    experts: float
    head: float
    step: float


def _seen(observed: ObservedSteps, answer_s: float) -> dict[str, float]:
    """Seconds of one step by part of the model, without what frontends took meanwhile."""
    told = observed.seconds_by_part

    def total(names: tuple[str, ...]) -> float:
        return sum(told.get(name, 0.0) for name in names) / observed.num_steps

    inside = {"dense": total(_DENSE), "experts": total(_EXPERTS), "head": total(_HEAD)}
    between = max(total((_MODEL,)) - sum(inside.values()), 0.0)
    seen = inside | {"step": total(_AROUND) + between}
    whole_s = sum(seen.values())
    own = max(1 - answer_s / whole_s, 1 / MAX_FACTOR) if whole_s > 0 else 1.0
    return {name: seconds * own for name, seconds in seen.items()}


def _factor(seen_s: float, predicted_s: float, weight: float) -> float:
    """1 where either is nothing: a part that was not timed says nothing."""
    if seen_s <= 0 or predicted_s <= 0 or not math.isfinite(seen_s / predicted_s):
        return 1.0
    ratio = min(max(seen_s / predicted_s, 1 / MAX_FACTOR), MAX_FACTOR)
    return float(ratio**weight)


def _gateway(node: NodeCosts, factors: _Factors, *, is_local: bool) -> NodeCosts:
    in_chunk_s = node.chunk_attention_s
    return replace(
        node,
        layer=_scaled(node.layer, factors.dense) if is_local else node.layer,
        layer_beside=node.layer_beside if is_local else _scaled(node.layer_beside, factors.dense),
        attention_s=node.attention_s * factors.dense,
        chunk_attention_s=None if in_chunk_s is None else in_chunk_s * factors.dense,
        experts=_scaled_experts(node.experts, factors.experts) if is_local else node.experts,
        head=_scaled(node.head, factors.head),
        step=_scaled(node.step, factors.step),
    )


def _with_shards(node: NodeCosts, factor: float) -> NodeCosts:
    return replace(node, shard_experts=_scaled_experts(node.shard_experts, factor))


def _scaled_link(link: LinkCosts, factor: float) -> LinkCosts:
    return LinkCosts(
        gateway_s=link.gateway_s * factor,
        shard_s=link.shard_s * factor,
        latency_s=link.latency_s * factor,
        bytes_per_s=link.bytes_per_s / factor,
    )


def _scaled(cost: Cost, factor: float) -> Cost:
    if isinstance(cost, Linear):
        return Linear(cost.fixed_s * factor, cost.per_unit_s * factor)
    return Curve(tuple(Knot(units, seconds * factor) for units, seconds in cost.knots))


def _scaled_experts(cost: ExpertCost, factor: float) -> ExpertCost:
    return ExpertCost(
        fixed_s=cost.fixed_s * factor,
        per_expert_s=cost.per_expert_s * factor,
        per_row_s=cost.per_row_s * factor,
    )
