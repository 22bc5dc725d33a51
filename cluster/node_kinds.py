"""Nodes that may be asked for besides those that are there, and what there is to plan for. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import psutil

from cluster.nodes import Node, Role, choose_nodes
from cluster.planning.cluster_shape import ClusterShape
from galerne.errors import ConfigError
from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Nodes that Ray's autoscaler may bring: a worker group with the role's label, or without."""

    role: Role | None  # None: of a group without the label, for both
    most: int  # in all, with those that are there already
    cores: int | None = None  # of one; None: as those that are there
    memory_bytes: float | None = None  # of one, that Ray gives to workers; None: likewise

    def __post_init__(self) -> None:
        key = f"nodes.{self.role.value if self.role else 'any'}"
        if self.most < 0:
            raise ConfigError(f"{key}.most", self.most, "must be at least 0 nodes")
        if self.cores is not None and self.cores < 1:
            raise ConfigError(f"{key}.cores", self.cores, "must be at least 1 core")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ConfigError(f"{key}.memory_bytes", self.memory_bytes, "must be above 0 bytes")


def cluster_shape(
    nodes: Sequence[Node],
    kinds: Sequence[NodeKind] = (),
    *,
    is_grpc_calibrated: bool,
    is_nccl_calibrated: bool = False,
    trusts_network: bool = False,
) -> ClusterShape:
    """Nodes that are there and those that may be asked for, as the planner counts them.

    Cores and memory are those of the smallest node of a kind, since any of them may be chosen; the
    planner knows one number of cores, which is the smallest of all.

    Args:
        nodes: That live; those without CPUs count for nothing.
        kinds: That may be asked for, each role once; without any there are only ``nodes``.
        is_grpc_calibrated: Whether costs of links between nodes are known.
        is_nccl_calibrated: Whether costs of links between GPUs are known.
        trusts_network: Whether these may leave a host, in plain text.

    Raises:
        ValueError: There is no node for a gateway, or nothing says what a kind's nodes have.
    """
    usable = [node for node in nodes if node.num_cpus > 0]
    most = _most_by_role(usable, kinds)
    of_any, gateways = most[None], most[Role.GATEWAY]
    if of_any + gateways < 1:
        raise ValueError("no node with CPUs may hold a gateway: all are labelled for shards")
    sizes = [(n.role, n.cores, n.memory_bytes) for n in usable]
    sizes += [_size(kind, usable) for kind in kinds if kind.most]
    num_nodes = sum(most.values())
    transports = {LinkTransport.LOCAL, LinkTransport.SHM}
    if num_nodes > 1 and is_grpc_calibrated:
        transports.add(LinkTransport.GRPC)
    gpus = min(node.num_gpus for node in usable) if usable else 0  # of a kind to come: unknown
    if is_nccl_calibrated and gpus and not any(kind.most for kind in kinds):
        transports.add(LinkTransport.NCCL)
    # One node at least is a gateway's, so it can be no shard's without one.
    shard_nodes = most[Role.SHARD] + of_any - (gateways == 0)
    for_shards = [size for role, _, size in sizes if role is not Role.GATEWAY]
    return ClusterShape(
        gateway_nodes=gateways + of_any,
        gateway_node_bytes=min(size for role, _, size in sizes if role is not Role.SHARD),
        cores_per_node=min(cores for _, cores, _ in sizes),
        transports=frozenset(transports),
        shard_nodes=shard_nodes,
        shard_node_bytes=min(for_shards) if shard_nodes else 0.0,
        max_nodes=num_nodes,
        gpus_per_node=gpus,
        trusts_network=trusts_network,
    )


def local_cluster(
    num_cores: int, calibrated: Collection[LinkTransport], shard_nodes: int = 0
) -> ClusterShape:
    """This machine, and so many more like it for shards alone. ``calibrated``: links with costs."""
    between = {LinkTransport.SHM, LinkTransport.GRPC} if shard_nodes else {LinkTransport.SHM}
    node_bytes = float(psutil.virtual_memory().total)
    return ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=node_bytes,
        cores_per_node=num_cores,
        transports=frozenset({LinkTransport.LOCAL, *between.intersection(calibrated)}),
        shard_nodes=shard_nodes,
        shard_node_bytes=node_bytes,
    )


def roles_to_ask(
    nodes: Sequence[Node], kinds: Sequence[NodeKind], gateway_nodes: int, shard_nodes: int
) -> list[Role | None] | None:
    """The label that each node of a shape must have (None: none of ours); None: all are there.

    Every node of the shape is listed, so that those asked for are others than those there. For
    missing ones the role's label is wanted as far as its kind reaches, then nodes without any. No
    two kinds of nodes fit one entry, so a scheduler that takes one after the other and never
    goes back, as Ray's two do, finds what there is.
    """
    chosen = choose_nodes(nodes, gateway_nodes, shard_nodes)
    if not (chosen.missing_gateways or chosen.missing_shards):
        return None
    usable = [node for node in nodes if node.num_cpus > 0]
    room = _most_by_role(usable, kinds)
    room.subtract(node.role for node in usable)
    on_any = Counter(
        {
            Role.GATEWAY: sum(node.role is None for node in chosen.gateways),
            Role.SHARD: sum(node.role is None for node in chosen.shards),
        }
    )
    asked: list[Role | None] = []
    for role, number in (
        (Role.GATEWAY, chosen.missing_gateways),
        (Role.SHARD, chosen.missing_shards),
    ):
        for _ in range(number):
            asked.append(_label(role, room, on_any))
    return [node.role for node in (*chosen.gateways, *chosen.shards)] + asked


def _label(role: Role, room: Counter[Role | None], on_any: Counter[Role]) -> Role | None:
    """Of a node to ask for. The other role's, where that lets go of a node that can be both."""
    other = Role.SHARD if role is Role.GATEWAY else Role.GATEWAY
    label: Role | None = role
    if room[role] <= 0 < room[None]:
        label = None
        on_any[role] += 1
    elif room[role] <= 0 < min(room[other], on_any[other]):
        label = other
        on_any.update({other: -1, role: 1})
    room[label] -= 1
    return label


def _most_by_role(usable: Iterable[Node], kinds: Iterable[NodeKind]) -> Counter[Role | None]:
    present = Counter(node.role for node in usable)
    return present | Counter({kind.role: kind.most for kind in kinds})


def _size(kind: NodeKind, usable: Sequence[Node]) -> tuple[Role | None, int, float]:
    """Role, cores and bytes of a node of a kind: as told, as those of its role, or as the rest."""
    alike = [node for node in usable if node.role is kind.role] or usable
    cores = kind.cores or min((node.cores for node in alike), default=0)
    size = kind.memory_bytes or min((node.memory_bytes for node in alike), default=math.nan)
    if not cores or math.isnan(size):
        label = kind.role.value if kind.role else "any"
        raise ValueError(
            f"nodes.{label}: cores and memory_bytes must be set while no node is there"
        )
    return kind.role, cores, size
