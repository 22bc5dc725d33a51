"""What a placement loses with its shards and nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galerne.ids import ShardId
from galerne.topology import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Experts without a live copy, counted as (layer, expert), when shards or nodes are down."""

    num_nodes: int  # that have shards
    lost_with_any_one_shard: int  # at worst
    lost_with_any_one_node: int  # at worst
    any_two_shards_probability: float  # fraction of pairs that lose some expert; 0 without pairs
    any_two_nodes_probability: float

    @property
    def text(self) -> str:
        """One sentence, about nodes; about shards where there is one node only."""
        if self.num_nodes > 1:
            domain, lost = "node", self.lost_with_any_one_node
            probability = self.any_two_nodes_probability
        else:
            domain, lost = "shard", self.lost_with_any_one_shard
            probability = self.any_two_shards_probability
        experts = "expert" if lost == 1 else "experts"
        return (
            f"any one {domain} lost: {lost} {experts} without a live copy; "
            f"any two: {probability:.0%} of pairs lose some".replace("%", " %")
        )


def availability(
    placement: Placement, shards_by_node: Mapping[str, Sequence[ShardId]]
) -> Availability:
    """What is lost with any one and any two failure domains.

    Raises:
        ValueError: A replica is on a shard that no node has.
    """
    nodes = [shards for shards in shards_by_node.values() if shards]
    shards = [shard for node in nodes for shard in node]
    node_of = {shard: number for number, node in enumerate(nodes) for shard in node}
    on_shard = _holders(placement, {shard: i for i, shard in enumerate(shards)}, len(shards))
    on_node = _holders(placement, node_of, len(nodes))
    return Availability(
        num_nodes=len(nodes),
        lost_with_any_one_shard=_most_lost(on_shard),
        lost_with_any_one_node=_most_lost(on_node),
        any_two_shards_probability=_pairs_that_lose(on_shard),
        any_two_nodes_probability=_pairs_that_lose(on_node),
    )


def _holders(
    placement: Placement, domain_of: Mapping[ShardId, int], num_domains: int
) -> npt.NDArray[np.bool_]:
    """``[L * E, D]``: is there a copy in this failure domain?"""
    experts = [replicas for layer in placement.by_layer for replicas in layer]
    holds = np.zeros((len(experts), num_domains), dtype=bool)
    for row, replicas in zip(holds, experts, strict=True):
        for shard in replicas:
            if shard not in domain_of:
                raise ValueError(f"the placement names {shard}, which no node has")
            row[domain_of[shard]] = True
    return holds


def _most_lost(holds: npt.NDArray[np.bool_]) -> int:
    num_domains = holds.sum(axis=1)
    never = int((num_domains == 0).sum())
    return never + int(holds[num_domains == 1].sum(axis=0).max(initial=0))


def _pairs_that_lose(holds: npt.NDArray[np.bool_]) -> float:
    """Fraction of pairs of domains that hold all copies of some expert."""
    total = holds.shape[1]
    num_pairs = total * (total - 1) // 2
    num_domains = holds.sum(axis=1)
    if not num_pairs:
        return 0.0
    if (num_domains == 0).any():
        return 1.0
    alone = holds[num_domains == 1].any(axis=0)
    loses = alone[:, None] | alone[None, :]
    first, second = np.nonzero(holds[num_domains == 2])[1].reshape(-1, 2).T
    loses[first, second] = True  # first < second
    return float(np.triu(loses, k=1).sum() / num_pairs)
