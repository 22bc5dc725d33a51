"""Whether a topology fits on GPUs, and what it leaves there. Pure."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from cluster.actors.launch_spec import DeviceRooms
from cluster.config import ServeConfig
from cluster.planning.gpu_memory import GpuMemory, Split
from galerne.errors import ConfigError
from galerne.topology import Topology
from galerne.units import size_text
from shards.kernels.kinds import CUDA

if TYPE_CHECKING:
    from cluster.plan import HeldModel


def split_of(topology: Topology, replicas: int) -> Split:
    """How a topology spreads the model over GPUs."""
    parts = len(topology.gateways), len(topology.shards)
    return Split(topology.transport, *parts, replicas)


def fit_on_gpus(
    config: ServeConfig, held: HeldModel, topology: Topology, memory: GpuMemory
) -> tuple[int, int]:
    """Bytes of weights over all processes, and those left for the caches of all gateways.

    Raises:
        ConfigError: A part does not fit its GPU.
    """
    split = split_of(topology, config.replicas)
    fit, number = memory.gateway(split), len(topology.gateways)
    if fit.left <= 0:
        text = f"a gateway takes {size_text(int(fit.taken))} of its GPU without any cache, "
        text += f"which has {size_text(int(memory.free_bytes))} free"
        raise ConfigError("model", held.path, text)
    if config.shard_device == CUDA and not split.is_local:
        shard = memory.shard(split)
        if shard > memory.shard_free_bytes:
            has = size_text(int(memory.shard_free_bytes))
            text = f"each takes {size_text(int(shard))} of its GPU, which has {has} free"
            raise ConfigError("shards", split.shards, text)
    on_gpus = split.is_local or config.shard_device == CUDA
    routed = memory.num_experts * memory.expert_bytes if on_gpus else held.shape.routed_bytes
    copies = number if split.is_local else config.replicas
    weights = (memory.dense_bytes + memory.beside_bytes) * number + routed * copies
    return int(weights), int(fit.left) * number


def device_rooms(
    memory: GpuMemory | None, topology: Topology, config: ServeConfig, cache_bytes: int
) -> DeviceRooms:
    """What is left for routed experts and adapters, which come and go; None: not on a GPU."""
    if memory is None:
        return DeviceRooms()
    split = split_of(topology, config.replicas)
    gateway = ceil(memory.free_bytes - memory.gateway_floor(split) - cache_bytes)
    shard = ceil(memory.shard_free_bytes - memory.shard_floor(split))
    return DeviceRooms(gateway, shard if config.shard_device == CUDA else None)
