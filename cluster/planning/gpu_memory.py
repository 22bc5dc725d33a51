"""What a GPU has and what parts of a model take of it: the one formula of plans. Pure.

The plan of ``galerne serve``, the planner of auto, ``galerne what-if``, the simulator and the
doctor's verdict all ask this; ``cluster.gpu_memory`` fills it in from a checkpoint and settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from galerne.topology import LinkTransport


class CacheRule(NamedTuple):
    """How large a gateway's cache is made: ``--kv-memory``, or as it is already."""

    fraction: float | None = 0.3  # of what is left on its GPU; None: an amount
    total_bytes: float = 0.0  # of all gateways together, if it is an amount
    each_bytes: float | None = None  # of each: it has been made

    def size(self, left_bytes: float, num_gateways: int) -> float:
        """Of one gateway's, where so much is left on its GPU."""
        if self.each_bytes is not None:
            return self.each_bytes
        if self.fraction is not None:
            return max(self.fraction * left_bytes, 0.0)
        return self.total_bytes / num_gateways


THREE_TENTHS = CacheRule()  # as ``--kv-memory`` is unless said otherwise


class Split(NamedTuple):
    """How a model is spread over GPUs."""

    transport: LinkTransport
    gateways: int = 1
    shards: int = 1
    replicas: int = 1

    @property
    def is_local(self) -> bool:
        """Whether every gateway has all experts."""
        return self.transport is LinkTransport.LOCAL


ALONE = Split(LinkTransport.LOCAL)
AWAY = Split(LinkTransport.GRPC)  # experts on cores, or on other GPUs


class GatewayFit(NamedTuple):
    """A gateway's GPU. Bytes."""

    taken: float  # by all but the cache
    left: float  # for the cache and what comes later; may be negative
    cache: float  # as it is made; more than is left: it cannot be made


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """One GPU, and what parts of one model take of it, by torch's allocator. Bytes."""

    free_bytes: float  # before any of our processes is there; of gateways' GPUs
    shard_free_bytes: float  # the same of shards'
    process_bytes: float = 0.0  # of every part: CUDA's context, kernels, what the allocator loses
    dense_bytes: float  # of a gateway: weights without routed experts
    expert_bytes: float  # of one routed expert in all layers
    num_experts: int
    beside_bytes: float = 0.0  # of a gateway: vision, features of images, Eagle head
    step_bytes: float = 0.0  # of a gateway: its largest step, recorded ones besides
    frame_bytes: float = 0.0  # of a shard: the largest step of one gateway
    link_bytes: float = 0.0  # of a link by NCCL, at either end
    gateway_adapter_bytes: float = 0.0  # set aside beside the dense weights, or for all that it has
    expert_adapter_bytes: float = 0.0  # with one routed expert in all layers
    shard_adapter_bytes: float = 0.0  # of a shard, whatever experts it has
    token_bytes: float  # of the cache, the head's among them
    least_cache_bytes: float  # with less no request of full length would be served
    cache: CacheRule = THREE_TENTHS

    def gateway(self, split: Split) -> GatewayFit:
        """One gateway's GPU; where experts are elsewhere, links besides."""
        taken = self.gateway_floor(split) + self.gateway_adapter_bytes
        if split.is_local:
            taken += self.num_experts * (self.expert_bytes + self.expert_adapter_bytes)
        left = self.free_bytes - taken
        return GatewayFit(taken, left, self.cache.size(left, split.gateways))

    def gateway_floor(self, split: Split) -> float:
        """Without routed experts, adapters and cache, which come and go."""
        links = split.shards if split.transport is LinkTransport.NCCL else 0
        own = self.process_bytes + self.dense_bytes + self.beside_bytes + self.step_bytes
        return own + links * self.link_bytes

    def shard(self, split: Split) -> float:
        """What one shard takes of its GPU."""
        each = self.expert_bytes + self.expert_adapter_bytes
        most = ceil(self.num_experts * split.replicas / split.shards)
        return self.shard_floor(split) + self.shard_adapter_bytes + most * each

    def shard_floor(self, split: Split) -> float:
        """Without routed experts and adapters."""
        links = split.gateways if split.transport is LinkTransport.NCCL else 0
        return self.process_bytes + split.gateways * self.frame_bytes + links * self.link_bytes

    def wanted_on_gateway(self, split: Split, cache_tokens: float) -> float:
        """What a gateway's GPU must have, for so many tokens in its cache at the same time."""
        fit, needed = self.gateway(split), self.needed_cache(cache_tokens)
        if self.cache.each_bytes is None and self.cache.fraction is not None:
            return fit.taken + needed / self.cache.fraction
        return fit.taken + fit.cache

    def needed_cache(self, tokens: float) -> float:
        """Of the cache, for so many tokens, and one request of full length at least."""
        return max(tokens * self.token_bytes, self.least_cache_bytes)

    def lacks_cache(self, split: Split, cache_tokens: float) -> tuple[float, float] | None:
        """Set aside and needed, if the setting or the cache that there is gives too little."""
        size, needed = self.gateway(split).cache, self.needed_cache(cache_tokens)
        return (size, needed) if size < needed else None

    def with_cache(self, num_bytes: float) -> GpuMemory:
        """Where every gateway's cache has been made."""
        return replace(self, cache=CacheRule(None, 0.0, num_bytes))

    def with_free(self, free_bytes: float, shard_free_bytes: float | None = None) -> GpuMemory:
        """On other GPUs."""
        shards = free_bytes if shard_free_bytes is None else shard_free_bytes
        return replace(self, free_bytes=free_bytes, shard_free_bytes=shards)
