"""The nodes of a Ray cluster, and which part of a deployment goes to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEAD_RESOURCE = "node:__internal_head__"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives. Parts go where there are CPUs."""

    id: str
    num_cpus: float
    is_head: bool


def alive_nodes() -> list[Node]:
    """Nodes now, the head first, the others in one order for all who ask."""
    import ray

    found = [
        Node(node["NodeID"], node["Resources"].get("CPU", 0.0), HEAD_RESOURCE in node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (not node.is_head, node.id))


def node_by_part(
    gateways: Sequence[str],
    shards: Sequence[str],
    nodes: Sequence[Node],
    *,
    num_replicas: int,
    cpu_per_part: float,
) -> dict[str, str]:
    """The node's id of every part: gateways and shards each spread evenly, from the first node on.

    Copies of an expert lie on shards that follow one another, in a ring; those go to different
    nodes as far as there are enough. With two nodes, two copies and an odd number of shards there
    are not: one pair of neighbours shares a node. Pure.

    Raises:
        ValueError: There are more parts than the nodes' CPUs allow.
    """
    room = {node.id: int(node.num_cpus / cpu_per_part + 1e-6) for node in nodes}
    if sum(room.values()) < len(gateways) + len(shards):
        raise ValueError(f"{len(nodes)} node(s) have room for {sum(room.values())} parts")
    homes: dict[str, str] = {}
    _spread(gateways, 1, room, homes)
    _spread(shards, num_replicas, room, homes)
    return homes


def _spread(
    parts: Sequence[str], num_together: int, room: dict[str, int], homes: dict[str, str]
) -> None:
    """Take room for parts that go round; so many neighbours in their ring should lie apart."""
    order, taken = list(room), dict.fromkeys(room, 0)
    ring: list[str] = []
    reach = num_together - 1
    for number, part in enumerate(parts):
        behind = ring[max(number - reach, 0) :] if reach else []
        ahead = ring[: max(number + reach + 1 - len(parts), 0)]
        near = {*behind, *ahead}
        free = [node for node in order if room[node]]
        home = min(free, key=lambda node: (node in near, taken[node], order.index(node)))
        room[home] -= 1
        taken[home] += 1
        ring.append(home)
        homes[part] = home
