"""The nodes of a Ray cluster: what each can be, and which part of a deployment goes to which."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

HEAD_RESOURCE = "node:__internal_head__"
ROLE_LABEL = "galerne.io/role"
CORES_LABEL = "galerne.io/cores"

_LAST_RESORT = 2  # a tier of nodes that are not even taken to keep copies apart


class Role(enum.Enum):
    """What a node is for, by its label. A node without one can be both."""

    GATEWAY = "gateway"
    SHARD = "shard"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives. Parts go where there are CPUs."""

    id: str
    num_cpus: float  # that Ray places by
    is_head: bool
    role: Role | None = None
    memory_bytes: float = 0.0  # that Ray gives to workers
    num_gpus: int = 0
    labelled_cores: int | None = None  # where Ray was told another number of CPUs

    @property
    def cores(self) -> int:
        """Cores that parts compute with."""
        return self.labelled_cores or max(int(self.num_cpus), 1)


class Chosen(NamedTuple):
    """Nodes for a shape; gateways and shards on different ones."""

    gateways: list[Node]
    shards: list[Node]
    missing_gateways: int
    missing_shards: int


def alive_nodes() -> list[Node]:
    """Nodes now, the head first, the others in one order for all who ask.

    Raises:
        ValueError: A node has a label that says nothing; names node and label.
    """
    import ray

    found = [node_of(node) for node in ray.nodes() if node["Alive"]]
    return sorted(found, key=lambda node: (not node.is_head, node.id))


def node_of(facts: Mapping[str, Any]) -> Node:
    """A node from what ``ray.nodes()`` says of it.

    Raises:
        ValueError: As ``alive_nodes``.
    """
    labels, resources, name = facts["Labels"], facts["Resources"], facts["NodeID"]
    role, cores = labels.get(ROLE_LABEL), labels.get(CORES_LABEL)
    if role is not None and role not in {known.value for known in Role}:
        raise ValueError(f"node {name}: {ROLE_LABEL} must be gateway or shard, got {role!r}")
    if cores is not None and not (cores.isdecimal() and int(cores)):
        raise ValueError(f"node {name}: {CORES_LABEL} must be a number from 1 up, got {cores!r}")
    return Node(
        name,
        resources.get("CPU", 0.0),
        HEAD_RESOURCE in resources,
        role=None if role is None else Role(role),
        memory_bytes=resources.get("memory", 0.0),
        num_gpus=int(resources.get("GPU", 0)),
        labelled_cores=None if cores is None else int(cores),
    )


def nodes_with_gpus(nodes: Sequence[Node], *, gateways: bool, shards: bool) -> list[Node]:
    """What each node can be where gateways, or gateways and shards, compute on GPUs. Pure.

    One without a GPU is for shards alone, or has room for no part (no CPUs). Gateways on CPUs have
    no shards on GPUs.
    """
    return [
        node if node.num_gpus or not gateways else _without_gpu(node, need_gpus=shards)
        for node in nodes
    ]


def _without_gpu(node: Node, *, need_gpus: bool) -> Node:
    """``need_gpus``: of shards."""
    is_for_none = need_gpus or node.role is Role.GATEWAY
    return replace(node, num_cpus=0.0) if is_for_none else replace(node, role=Role.SHARD)


def choose_nodes(
    nodes: Sequence[Node],
    gateway_nodes: int,
    shard_nodes: int,
    *,
    with_gateways: Collection[str] = (),
    with_shards: Collection[str] = (),
) -> Chosen:
    """So many nodes for gateways and so many others for shards, as far as there are. Pure.

    Ids of nodes on which such parts are already come first, then those with the role's label, then
    those without any; each in the given order.
    """
    usable = [node for node in nodes if node.num_cpus > 0]
    gateways = sorted(
        (node for node in usable if node.role is not Role.SHARD),
        key=lambda n: (n.id not in with_gateways, n.id in with_shards, n.role is None),
    )[:gateway_nodes]
    shards = sorted(
        (node for node in usable if node.role is not Role.GATEWAY and node not in gateways),
        key=lambda n: (n.id not in with_shards, n.role is None),
    )[:shard_nodes]
    return Chosen(gateways, shards, gateway_nodes - len(gateways), shard_nodes - len(shards))


def node_by_part(
    gateways: Sequence[str],
    shards: Sequence[str],
    nodes: Sequence[Node],
    *,
    num_replicas: int,
    cpu_per_part: float,
    gateway_nodes: int | None = None,
    shard_nodes: int = 0,
    staying: Mapping[str, str] | None = None,
    on_gpus: Collection[str] = (),
) -> dict[str, str]:
    """The node's id of every part: gateways and shards each spread evenly, from the first node on.

    Gateways never go to nodes for shards. Shards go to those first, then to nodes for both, and to
    nodes for gateways only where there are no others or where that is asked for.

    Copies of an expert lie on shards that follow one another, in a ring; those go to different
    nodes as far as there are enough. With two nodes, two copies and an odd number of shards there
    are not: one pair of neighbours shares a node. Pure.

    Args:
        gateways: Parts to place.
        shards: Parts to place, in the order of their ring.
        nodes: That live; the first ones are preferred.
        num_replicas: Copies of every expert.
        cpu_per_part: Ray's CPUs that a part claims.
        gateway_nodes: How many nodes the gateways take, as a ``Candidate`` says; None: any number,
            and shards go where they can.
        shard_nodes: With that, how many others the shards take; 0: they go beside the gateways.
        staying: Nodes of parts that are placed already; those among the above stay there.
        on_gpus: Parts, of all of these, that take a GPU each.

    Raises:
        ValueError: There are more parts than the nodes' CPUs or GPUs allow, or fewer nodes than are
            wanted.
    """
    homes = dict(staying or {})
    room = {node.id: int(node.num_cpus / cpu_per_part + 1e-6) for node in nodes}
    gpus = {node.id: node.num_gpus for node in nodes}
    for part, home in homes.items():
        if home in room:
            room[home] = max(room[home] - 1, 0)
            gpus[home] -= part in on_gpus
    num_new = sum(part not in homes for part in (*gateways, *shards))
    if sum(room.values()) < num_new:
        raise ValueError(f"{len(nodes)} node(s) have room for {sum(room.values())} parts")
    if gateway_nodes is None:
        gateway_tiers, shard_tiers = _tiers(nodes)
    else:
        gateway_tiers, shard_tiers = _chosen_tiers(
            choose_nodes(
                nodes,
                gateway_nodes,
                shard_nodes,
                with_gateways={homes[part] for part in gateways if part in homes},
                with_shards={homes[part] for part in shards if part in homes},
            )
        )
    _spread(gateways, 1, gateway_tiers, room, homes, gpus, on_gpus)
    _spread(shards, num_replicas, shard_tiers, room, homes, gpus, on_gpus)
    return homes


def _tiers(nodes: Sequence[Node]) -> tuple[dict[str, int], dict[str, int]]:
    """Nodes for gateways and for shards; those of a lower number first."""
    shard_tier = {Role.SHARD: 0, None: 1, Role.GATEWAY: _LAST_RESORT}
    for_gateways = {node.id: 0 for node in nodes if node.role is not Role.SHARD}
    return for_gateways, {node.id: shard_tier[node.role] for node in nodes}


def _chosen_tiers(chosen: Chosen) -> tuple[dict[str, int], dict[str, int]]:
    if chosen.missing_gateways or chosen.missing_shards:
        raise ValueError(
            f"{chosen.missing_gateways} node(s) for gateways and "
            f"{chosen.missing_shards} for shards are missing"
        )
    for_gateways = {node.id: 0 for node in chosen.gateways}
    return for_gateways, {node.id: 0 for node in chosen.shards} or for_gateways


def _spread(
    parts: Sequence[str],
    num_together: int,
    tiers: Mapping[str, int],
    room: dict[str, int],
    homes: dict[str, str],
    gpus: dict[str, int],
    on_gpus: Collection[str],
) -> None:
    """Take room for parts that go round; so many neighbours in their ring should lie apart."""
    order = {node: number for number, node in enumerate(room)}
    taken = Counter(homes[part] for part in parts if part in homes)
    for number, part in enumerate(parts):
        if part in homes:
            continue
        reach = range(1, num_together)
        ring = [parts[(number + step) % len(parts)] for gap in reach for step in (-gap, gap)]
        near = {homes[other] for other in ring if other in homes}
        takes_gpu = part in on_gpus
        free = [node for node in tiers if room[node] and (gpus[node] > 0 or not takes_gpu)]
        if not free:
            what = "a GPU" if takes_gpu else "room"
            raise ValueError(f"no node that may hold {part} has {what} for it")
        rank = {
            node: (tiers[node] == _LAST_RESORT, node in near, tiers[node], taken[node], order[node])
            for node in free
        }
        home = min(free, key=rank.__getitem__)
        room[home] -= 1
        gpus[home] -= takes_gpu
        taken[home] += 1
        homes[part] = home
