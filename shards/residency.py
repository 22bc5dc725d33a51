"""Which experts a shard must hold, and for what. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from galerne.v1 import internal_pb2 as internal

Experts = frozenset[tuple[int, int]]  # (layer, expert id)


class Residency:
    """What the epochs place here, and what was adopted from shards that are lost."""

    def __init__(self, epochs: Iterable[int], placed: Experts) -> None:
        self._by_epoch = dict.fromkeys(epochs, placed)
        self.adopted: Experts = frozenset()

    @property
    def wanted(self) -> Experts:
        """All that must be resident."""
        return self.adopted.union(*self._by_epoch.values())

    @property
    def epochs(self) -> AbstractSet[int]:
        """Those that are known."""
        return self._by_epoch.keys()

    def prepare(self, epoch: int, placed: Experts) -> None:
        """An epoch to come places these here."""
        self._by_epoch[epoch] = placed

    def retire(self, keep: Collection[int]) -> None:
        """Forget all epochs but these."""
        self._by_epoch = {e: placed for e, placed in self._by_epoch.items() if e in keep}

    def adopt(self, experts: Experts) -> None:
        """Hold exactly these for lost shards, also those that an epoch places here.

        That epoch may be given up, and gateways of another do not know what it places.
        """
        self.adopted = experts


def experts_in(layers: Iterable[internal.LayerExperts]) -> Experts:
    """As they came in a message."""
    return frozenset((layer.layer, expert) for layer in layers for expert in layer.experts)


def by_layer(experts: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """Sorted expert ids by layer."""
    found: dict[int, list[int]] = {}
    for layer, expert in sorted(experts):
        found.setdefault(layer, []).append(expert)
    return found


def as_set(experts_by_layer: Mapping[int, Iterable[int]]) -> Experts:
    """The same as a set."""
    return frozenset((layer, e) for layer, ids in experts_by_layer.items() for e in ids)


def as_message(experts: Iterable[tuple[int, int]]) -> list[internal.LayerExperts]:
    """The same as a message has it."""
    items = by_layer(experts).items()
    return [internal.LayerExperts(layer=layer, experts=ids) for layer, ids in items]
