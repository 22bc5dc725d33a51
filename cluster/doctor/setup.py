"""Settings of the gateway and the topologies that are measured: as ``galerne serve`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.doctor.gpu import shard_gpus
from cluster.doctor.steps import StepShape
from cluster.presets import names
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement
from router.gateway.settings import DTYPES, GatewaySettings
from router.gateway.sizes import BLOCK_SIZE
from router.model.kv_cache import PagedLatentCache
from shards.checkpoint.config import ModelConfig
from shards.cores import available_cores
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, CUDA, Kernels, kernels_on

EPOCH = Epoch(1)
NUMERICS = "bf16"
MAX_NUM_SEQS = 64
_MAX_BATCHED_TOKENS = 1024
_ROW_BUDGET = 4096
_GATEWAY = GatewayId("gateway-0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: a small checkpoint, and how its weights are held."""

    path: Path
    model: ModelConfig
    experts: WeightFormat
    dense: WeightFormat
    cluster_token: str
    device: str = CPU  # of the gateway
    shard_device: str = CPU
    num_gpus: int = 0  # of this machine

    @property
    def has_gpu_gateway(self) -> bool:
        """Whether a GPU's kernels compute in the gateway, interpreted ones too."""
        return kernels_on(self.device) is Kernels.TRITON

    @property
    def num_shard_workers(self) -> int:
        """Shards that compute at once without taking time from one another."""
        return shard_gpus(self.num_gpus) if self.shard_device == CUDA else available_cores()


def topology_of(model: ModelConfig, transport: LinkTransport, num_shards: int) -> Topology:
    """One gateway and so many shards, one copy of every expert, no micro-batches."""
    shards = tuple(map(ShardId, islice(names("shard"), num_shards)))
    return Topology(
        epoch=EPOCH,
        mode=Mode.THROUGHPUT,
        gateways=(_GATEWAY,),
        shards=shards,
        placement=contiguous_placement(model.num_layers, model.num_experts, shards),
        transport=transport,
        num_micro_batches=1,
        max_num_seqs=MAX_NUM_SEQS,
        max_batched_tokens=_MAX_BATCHED_TOKENS,
        row_budget=_ROW_BUDGET,
    )


def gateway_settings(
    subject: Subject, topology: Topology, steps: Sequence[StepShape]
) -> GatewaySettings:
    """Of a gateway that has room for these steps."""
    model, dtype = subject.model, DTYPES[NUMERICS]
    num_blocks = max(step.num_blocks for step in steps)
    longest = max(step.blocks_each for step in steps) * BLOCK_SIZE
    per_block = PagedLatentCache.bytes_per_block(model, BLOCK_SIZE, dtype)
    return GatewaySettings(
        gateway_id=_GATEWAY,
        checkpoint=subject.path,
        model_name="doctor",
        numerics=NUMERICS,
        topology=topology,
        cluster_token=subject.cluster_token,
        max_model_len=longest,
        kv_bytes=(num_blocks + longest // BLOCK_SIZE) * per_block,
        max_chunk_tokens=_MAX_BATCHED_TOKENS,
        num_threads=available_cores(),
        num_beside=1,  # where shards compute on the same cores: see plan_serving
        experts=subject.experts,
        dense=subject.dense,
        device=subject.device,
        shard_device=subject.shard_device,
    )
