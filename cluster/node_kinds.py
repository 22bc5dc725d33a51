"""Nodes that may be asked for besides those that are there, and what there is to plan for. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from cluster.nodes import Node, Role, choose_nodes, nodes_with_gpus
from cluster.planning.cluster_shape import NO_GPUS, ClusterShape, GpuUse
from galerne.errors import ConfigError
from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """Nodes that Ray's autoscaler may bring: a worker group with the role's label, or without."""

    role: Role | None  # None: of a group without the label, for both
    most: int  # in all, with those that are there already
    cores: int | None = None  # of one; None: as those that are there
    memory_bytes: float | None = None  # of one, that Ray gives to workers; None: likewise
    gpus: int | None = None  # of one; None: likewise

    def __post_init__(self) -> None:
        key = f"nodes.{self.role.value if self.role else 'any'}"
        if self.most < 0:
            raise ConfigError(f"{key}.most", self.most, "must be at least 0 nodes")
        if self.cores is not None and self.cores < 1:
            raise ConfigError(f"{key}.cores", self.cores, "must be at least 1 core")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ConfigError(f"{key}.memory_bytes", self.memory_bytes, "must be above 0 bytes")
        if self.gpus is not None and self.gpus < 0:
            raise ConfigError(f"{key}.gpus", self.gpus, "must be at least 0 GPUs")


def cluster_shape(
    nodes: Sequence[Node],
    kinds: Sequence[NodeKind] = (),
    *,
    calibrated: Collection[LinkTransport],
    gpu_use: GpuUse = NO_GPUS,
    trusts_network: bool = False,
) -> ClusterShape:
    """Nodes that are there and those that may be asked for, as the planner counts them.

    Cores, memory and GPUs are those of the smallest node of a kind, since any of them may be
    chosen; the planner knows one number of cores, which is the smallest of all.

    Args:
        nodes: That live; those without CPUs count for nothing, nor do those whose parts would need
            a GPU that they lack.
        kinds: That may be asked for, each role once; without any there are only ``nodes``.
        calibrated: Links whose costs are known.
        gpu_use: Which parts compute on GPUs.
        trusts_network: Whether NCCL may leave a host, in plain text.

    Raises:
        ValueError: There is no node for a gateway, or nothing says what a kind's nodes have, or
            they lack the GPUs that their parts need.
    """
    fit = nodes_with_gpus(nodes, gateways=gpu_use.by_gateways, shards=gpu_use.by_shards)
    usable = [node for node in fit if node.num_cpus > 0]
    most = _most_by_role(usable, kinds)
    of_any, gateways = most[None], most[Role.GATEWAY]
    if of_any + gateways < 1:
        what = "CPUs and a GPU" if gpu_use.by_gateways else "CPUs"
        raise ValueError(f"no node with {what} may hold a gateway: all others are for shards")
    sizes = [_Size(n.role, n.cores, n.memory_bytes, n.num_gpus) for n in usable]
    sizes += [_size(kind, usable) for kind in kinds if kind.most]
    num_nodes = sum(most.values())
    transports = {LinkTransport.LOCAL, LinkTransport.SHM}
    between: set[LinkTransport] = {LinkTransport.GRPC} if num_nodes > 1 else set()
    if gpu_use.by_shards:
        between.add(LinkTransport.NCCL)
    transports |= between.intersection(calibrated)
    # One node at least is a gateway's, so it can be no shard's without one.
    shard_nodes = most[Role.SHARD] + of_any - (gateways == 0)
    for_gateways = [size for size in sizes if size.role is not Role.SHARD]
    for_shards = [size for size in sizes if size.role is not Role.GATEWAY]
    _check_gpus(gpu_use, for_gateways, for_shards)
    gateway_gpus = min(size.gpus for size in for_gateways)
    shard_gpus = min((size.gpus for size in for_shards), default=gateway_gpus)
    return ClusterShape(
        gateway_nodes=gateways + of_any,
        gateway_node_bytes=min(size.memory_bytes for size in for_gateways),
        cores_per_node=min(size.cores for size in sizes),
        transports=frozenset(transports),
        shard_nodes=shard_nodes,
        shard_node_bytes=min(size.memory_bytes for size in for_shards) if shard_nodes else 0.0,
        max_nodes=num_nodes,
        gateway_gpus=gateway_gpus if gpu_use.by_gateways else 0,
        shard_gpus=shard_gpus if gpu_use.by_shards else 0,
        gpu_memory=gpu_use.memory,
        trusts_network=trusts_network,
    )


def local_cluster(
    num_cores: int,
    calibrated: Collection[LinkTransport],
    shard_nodes: int = 0,
    *,
    num_gpus: int = 0,
    gpu_use: GpuUse = NO_GPUS,
    trusts_network: bool = False,
) -> ClusterShape:
    """This machine, and so many more like it for shards alone.

    Args:
        num_cores: Of a machine.
        calibrated: Links whose costs are known.
        shard_nodes: More machines.
        num_gpus: Of a machine.
        gpu_use: Which parts compute on them.
        trusts_network: Whether NCCL may leave a host, in plain text.

    Raises:
        ValueError: Parts need GPUs and there are none.
    """
    if gpu_use.by_gateways and not num_gpus:
        raise ValueError("gateways on GPUs need machines with GPUs")
    between = {LinkTransport.SHM, LinkTransport.GRPC} if shard_nodes else {LinkTransport.SHM}
    if gpu_use.by_shards:
        between.add(LinkTransport.NCCL)
    node_bytes = float(psutil.virtual_memory().total)
    return ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=node_bytes,
        cores_per_node=num_cores,
        transports=frozenset({LinkTransport.LOCAL, *between.intersection(calibrated)}),
        shard_nodes=shard_nodes,
        shard_node_bytes=node_bytes,
        gateway_gpus=num_gpus if gpu_use.by_gateways else 0,
        shard_gpus=num_gpus if gpu_use.by_shards else 0,
        gpu_memory=gpu_use.memory,
        trusts_network=trusts_network,
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


class _Size(NamedTuple):
    """What a node has."""

    role: Role | None
    cores: int
    memory_bytes: float
    gpus: int


def _size(kind: NodeKind, usable: Sequence[Node]) -> _Size:
    """Of a node of a kind: as told, as those of its role, or as the rest."""
    alike = [node for node in usable if node.role is kind.role] or usable
    cores = kind.cores or min((node.cores for node in alike), default=0)
    size = kind.memory_bytes or min((node.memory_bytes for node in alike), default=math.nan)
    if not cores or math.isnan(size):
        problem = "cores and memory_bytes must be set while no node is there"
        raise ValueError(f"nodes.{_name(kind.role)}: {problem}")
    gpus = min((node.num_gpus for node in alike), default=0) if kind.gpus is None else kind.gpus
    return _Size(kind.role, cores, size, gpus)


def _name(role: Role | None) -> str:
    return role.value if role else "any"


def _check_gpus(
    gpu_use: GpuUse, for_gateways: Iterable[_Size], for_shards: Iterable[_Size]
) -> None:
    """Of nodes that are there those without have been left out: what fails is a kind."""
    for is_needed, part, sizes in (
        (gpu_use.by_gateways, "gateways", for_gateways),
        (gpu_use.by_shards, "shards", for_shards),
    ):
        for size in sizes:
            if is_needed and not size.gpus:
                raise ValueError(f"nodes.{_name(size.role)}.gpus: 0, and {part} compute on GPUs")
