"""What machines there are to plan for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from cluster.planning.gpu_memory import GpuMemory
from galerne.topology import LinkTransport


class GpuUse(NamedTuple):
    """Which parts compute on GPUs, each on one of its own."""

    by_gateways: bool = False
    by_shards: bool = False
    memory: GpuMemory | None = None  # of one, and what they take of it


NO_GPUS = GpuUse()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """Machines by what they can be. A machine that can be either counts in both."""

    gateway_nodes: int  # that can run a gateway; shards may share them
    gateway_node_bytes: float  # memory of one of them
    cores_per_node: int
    transports: frozenset[LinkTransport]
    shard_nodes: int = 0  # that can run shards and no gateway
    shard_node_bytes: float = 0.0
    max_nodes: int | None = None  # all together; unset: none can be either
    gateway_gpus: int = 0  # of a machine for gateways, one for each; 0: they compute on cores
    shard_gpus: int = 0  # the same of a machine for shards
    gpu_memory: GpuMemory | None = None  # of one GPU, and what parts take of it
    trusts_network: bool = False  # NCCL, which is not encrypted, may go between machines
    available_nodes: int | None = None  # more were asked for and did not come

    def __post_init__(self) -> None:
        if self.gateway_nodes < 1 or self.cores_per_node < 1 or self.shard_nodes < 0:
            raise ValueError("a cluster has a gateway node with a core, and no fewer than 0 others")
        if self.shard_gpus and not self.gateway_gpus:
            raise ValueError("shards on GPUs go with gateways on GPUs")
        if self.gateway_gpus and self.gpu_memory is None:
            raise ValueError("gateways on GPUs need to know what memory a GPU has")

    @property
    def num_nodes(self) -> int:
        """Machines in all."""
        both = self.gateway_nodes + self.shard_nodes
        return both if self.max_nodes is None else min(self.max_nodes, both)

    @property
    def gpu_use(self) -> GpuUse:
        """Which parts compute on GPUs."""
        return GpuUse(self.gateway_gpus > 0, self.shard_gpus > 0, self.gpu_memory)

    @property
    def shards_beside(self) -> int:
        """Shards that a machine with a gateway can hold: one on every GPU or core that is left."""
        return self.gateway_gpus - 1 if self.shard_gpus else self.cores_per_node

    @property
    def shards_apart(self) -> int:
        """Shards that a machine without a gateway can hold."""
        return self.shard_gpus or self.cores_per_node

    def with_more(self, shard_nodes: int) -> ClusterShape:
        """With so many more machines like these, for shards."""
        if not shard_nodes:
            return self
        return replace(
            self,
            transports=self.transports | {LinkTransport.GRPC},
            shard_nodes=self.shard_nodes + shard_nodes,
            shard_node_bytes=self.shard_node_bytes or self.gateway_node_bytes,
            max_nodes=None if self.max_nodes is None else self.max_nodes + shard_nodes,
        )
