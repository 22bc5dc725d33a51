"""Which shard to ask for an expert: where it is placed, who has adopted it, who is healthy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from galerne.ids import ShardId
from galerne.topology import Placement, Replicas
from router.exchange.calls import Call, InFlight
from router.exchange.dispatch import Ints, choose_shards
from router.exchange.links import LinkBook
from shards.residency import as_set


class ReplicaBook:
    """Copies of every expert. Any thread may ask what is unreachable."""

    def __init__(self, placement: Placement, links: LinkBook) -> None:
        self._by_layer = placement.by_layer
        self._links = links
        self._replica_sets = {replicas for layer in placement.by_layer for replicas in layer}
        self._adopted: dict[ShardId, frozenset[tuple[int, int]]] = {}
        self._adopters: Mapping[tuple[int, int], Replicas] = {}  # replaced as a whole

    def adopted_by(self, shard: ShardId, experts_by_layer: Mapping[int, Iterable[int]]) -> None:
        """A shard holds exactly these for others."""
        held = as_set(experts_by_layer)
        if held == self._adopted.get(shard, frozenset()):
            return
        self._adopted[shard] = held
        found: dict[tuple[int, int], Replicas] = {}
        for adopter, experts in sorted(self._adopted.items()):
            for expert in experts:
                found[expert] = (*found.get(expert, ()), adopter)
        self._adopters = found

    def holders(self, layer: int, expert: int) -> Replicas:
        """Where an expert is placed; who has adopted it comes in while no such shard is healthy."""
        placed = self._by_layer[layer][expert]
        adopters = self._adopters.get((layer, expert), ())
        if adopters and not self._links.healthy.intersection(placed):
            return (*adopters, *placed)
        return placed

    def are_placed(self, call: Call, flight: InFlight) -> bool:
        """Whether a frame's experts are where the topology says, and not with an adopter."""
        placed = self._by_layer[call.layer]
        return all(flight.shard in placed[expert] for expert in _experts(call, flight.slots))

    def choose(
        self, call: Call, owed: Sequence[InFlight], slots: Ints
    ) -> dict[int, ShardId | None]:
        """A shard for every expert of ``slots``, None where there is none.

        Better one that refused than a suspect, better a suspect than nobody; of those that refused
        the one for whom that is longest ago, so that none is asked for ever while another would
        answer. Who owes the rows already (``owed``: what is away of this call) only if no other
        copy is left.
        """
        experts, counts = np.unique(call.expert_ids.reshape(-1)[slots], return_counts=True)
        touched, rows = experts.tolist(), counts.tolist()
        replicas = self._idle_holders(call, owed, touched)
        healthy = self._links.healthy
        chosen: dict[int, ShardId | None] = dict.fromkeys(touched)
        refused = list(call.refused_by)
        willing = [healthy.difference(refused[i:]) for i in range(len(refused) + 1)]
        for usable in (*willing, self._links.reachable):
            if None in chosen.values():
                other = choose_shards(touched, rows, replicas, usable)
                chosen = {e: shard or other[e] for e, shard in chosen.items()}
        return chosen

    def unreachable(self) -> list[ShardId]:
        """Shards whose links are down and that leave an expert without a reachable copy."""
        up = self._links.reachable
        lost = {replicas for replicas in self._replica_sets if not up.intersection(replicas)}
        missing: set[ShardId] = set()
        for layer, experts in enumerate(self._by_layer) if lost else ():
            for expert, replicas in enumerate(experts):
                adopters = self._adopters.get((layer, expert), ())
                if replicas in lost and not up.intersection(adopters):
                    missing.update(replicas)
        return sorted(missing)

    def _idle_holders(
        self, call: Call, owed: Sequence[InFlight], touched: Sequence[int]
    ) -> Mapping[int, Replicas]:
        """Holders of every expert, without those that were asked for it already if others are."""
        asked: dict[int, set[ShardId]] = {}
        for flight in owed:
            for expert in _experts(call, flight.slots):
                asked.setdefault(expert, set()).add(flight.shard)
        holders = {e: self.holders(call.layer, e) for e in touched}
        return {
            e: tuple(s for s in holders[e] if s not in asked.get(e, ())) or holders[e]
            for e in touched
        }


def _experts(call: Call, slots: Ints) -> list[int]:
    found: list[int] = np.unique(call.expert_ids.reshape(-1)[slots]).tolist()
    return found
