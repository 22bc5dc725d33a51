"""What machines there are to plan for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from galerne.topology import LinkTransport


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
    gpus_per_node: int = 0  # a gateway or a shard that is linked by NCCL takes one
    trusts_network: bool = False  # NCCL, which is not encrypted, may go between machines
    available_nodes: int | None = None  # more were asked for and did not come

    def __post_init__(self) -> None:
        if self.gateway_nodes < 1 or self.cores_per_node < 1 or self.shard_nodes < 0:
            raise ValueError("a cluster has a gateway node with a core, and no fewer than 0 others")

    @property
    def num_nodes(self) -> int:
        """Machines in all."""
        both = self.gateway_nodes + self.shard_nodes
        return both if self.max_nodes is None else min(self.max_nodes, both)

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
