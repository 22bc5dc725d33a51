"""Who takes over the experts of lost shards. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from galerne.ids import ShardId
from galerne.topology import Placement

Adoption = Mapping[ShardId, frozenset[tuple[int, int]]]  # (layer, expert) by adopter


def plan_adoption(
    placement: Placement, shards: Collection[ShardId], lost: Collection[ShardId]
) -> Adoption:
    """Experts whose every copy is lost, spread over the shards that live, by name.

    Each layer is spread on its own, since a layer takes as long as its fullest shard. Empty sets
    for those that need not adopt, and for all if none lives.
    """
    live = sorted(set(shards) - set(lost))
    taken: dict[ShardId, set[tuple[int, int]]] = {shard: set() for shard in live}
    for layer, experts in enumerate(placement.by_layer) if live and lost else ():
        orphans = [e for e, replicas in enumerate(experts) if set(replicas) <= set(lost)]
        for number, expert in enumerate(orphans):
            taken[live[number % len(live)]].add((layer, expert))
    return {shard: frozenset(experts) for shard, experts in taken.items()}
