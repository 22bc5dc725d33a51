"""The shape of the cluster as an immutable value, and the placement of experts."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from galerne.ids import Epoch, GatewayId, ShardId


class Mode(enum.Enum):
    """What a topology is made for."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


class LinkTransport(enum.Enum):
    """How a gateway reaches a shard."""

    LOCAL = "local"  # experts in the gateway's process
    SHM = "shm"  # shared memory to shards on the gateway's host, gRPC to the others
    GRPC = "grpc"
    NCCL = "nccl"  # from GPU to GPU where both ends can and may, gRPC to the others


Replicas = tuple[ShardId, ...]  # shards that hold one expert, preferred first


@dataclass(frozen=True, slots=True)
class Placement:
    """Which shards hold which expert: ``by_layer[layer][expert]`` is its replicas."""

    by_layer: tuple[tuple[Replicas, ...], ...]

    def experts_of(self, shard: ShardId) -> dict[int, tuple[int, ...]]:
        """Expert ids by layer that a shard holds."""
        return {
            layer: tuple(e for e, replicas in enumerate(experts) if shard in replicas)
            for layer, experts in enumerate(self.by_layer)
        }

    @property
    def num_replicas(self) -> int:
        """Copies that every expert has at least."""
        return min(len(replicas) for experts in self.by_layer for replicas in experts)

    def experts_lost_with(self, shard: ShardId) -> int:
        """Number of (layer, expert) without a live copy when this shard is down."""
        return sum(replicas == (shard,) for experts in self.by_layer for replicas in experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """One epoch's shape."""

    epoch: Epoch
    mode: Mode
    gateways: tuple[GatewayId, ...]
    shards: tuple[ShardId, ...]
    placement: Placement
    transport: LinkTransport
    num_micro_batches: int
    max_num_seqs: int
    max_batched_tokens: int
    row_budget: int  # rows of one frame at most, so that a decode frame waits for one of these

    @property
    def shard_processes(self) -> tuple[ShardId, ...]:
        """Shards that are processes of their own."""
        return () if self.transport is LinkTransport.LOCAL else self.shards

    @property
    def parts(self) -> tuple[str, ...]:
        """All processes."""
        return (*self.gateways, *self.shard_processes)


def contiguous_placement(
    num_layers: int, num_experts: int, shards: Sequence[ShardId], num_replicas: int = 1
) -> Placement:
    """Equal contiguous ranges of experts; replicas on the shards that follow.

    Contiguous, because a range of experts is one slice of a stacked tensor of the checkpoint.

    Raises:
        ValueError: More replicas than shards, or more shards than experts.
    """
    if not 1 <= num_replicas <= len(shards):
        raise ValueError(f"replicas must be in [1, {len(shards)}], got {num_replicas}")
    if len(shards) > num_experts:
        raise ValueError(f"{len(shards)} shards for {num_experts} experts")
    layer = tuple(
        tuple(
            shards[(expert * len(shards) // num_experts + copy) % len(shards)]
            for copy in range(num_replicas)
        )
        for expert in range(num_experts)
    )
    return Placement((layer,) * num_layers)
