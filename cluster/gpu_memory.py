"""What gateways and shards take of GPUs: the numbers of one formula for a model and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from cluster.planning.gpu_memory import THREE_TENTHS, CacheRule, GpuMemory
from cluster.planning.shape import ModelShape, shape_of
from galerne.adapters import MAX_ADAPTERS
from router.gateway.sizes import BLOCK_SIZE, least_blocks
from router.model.cache_size import block_bytes
from router.model.device_sizes import (
    StepLimits,
    address_tensors,
    dense_tensors,
    expert_row_bytes,
    graph_bytes,
    head_tensors,
    step_bytes,
    vision_tensors,
    vision_work_bytes,
    with_guesses,
)
from router.model.vision_limits import VisionLimits
from shards.adapters.sizes import Ranks, adapter_tensors, largest_rank, table_tensors
from shards.checkpoint.config import ModelConfig
from shards.kernels.device_sizes import allocated_bytes, expert_tensors
from shards.kernels.formats import WeightFormat

# Of every process: CUDA's context and the kernels' code (about 0.5 GB of an H100, by others'
# measurements), and what the allocator's last segments leave. Not measured here yet.
PROCESS_BYTES: Final = 1 << 30
# Of a communicator of two by NCCL: a few channels of 4 MiB a direction and protocol. Not measured.
_LINK_BYTES: Final = 64 << 20


class Beside(NamedTuple):
    """What a gateway has on its GPU besides the text model."""

    vision: VisionLimits = VisionLimits()
    head: ModelConfig | None = None  # sizes of the Eagle head, if one guesses
    # By their ranks, those that may be loaded at the start; None: none can ever be.
    adapters: Sequence[Ranks] | None = None
    adapter_bytes: int | None = None  # set aside for adapters instead, on every GPU


NOTHING_BESIDE = Beside()


class FreeGpus(NamedTuple):
    """Free bytes of the GPU that has least, of those that gateways and shards may be on."""

    gateways: int
    shards: int


def gpu_memory(
    model: ModelConfig,
    kept: tuple[WeightFormat, WeightFormat],
    number_bytes: int,
    limits: StepLimits,
    free: FreeGpus,
    beside: Beside = NOTHING_BESIDE,
    cache: CacheRule = THREE_TENTHS,
) -> GpuMemory:
    """The formula's numbers for one model. Pure.

    Args:
        model: Sizes.
        kept: Formats of routed experts and of the dense weights, as GPUs keep them.
        number_bytes: Of what is wide.
        limits: The largest step that any topology allows.
        free: Of GPUs before anything of ours is there.
        beside: What a gateway has besides.
        cache: How large caches are made.
    """
    experts, dense = kept
    expert = expert_tensors(model.hidden_size, model.expert_size, experts, number_bytes)
    tables = model.num_layers * allocated_bytes(address_tensors(model.num_experts))
    token_bytes = _token_bytes(model, beside.head, number_bytes)
    rank = largest_rank(beside.adapters or ())
    adapters = _adapters(model, number_bytes, beside)
    least = least_blocks(limits.length) * BLOCK_SIZE + 1  # a token for what rounding takes
    return GpuMemory(
        free_bytes=free.gateways,
        shard_free_bytes=free.shards,
        process_bytes=PROCESS_BYTES + tables,
        dense_bytes=allocated_bytes(dense_tensors(model, dense, number_bytes)),
        expert_bytes=model.num_layers * allocated_bytes(expert),
        num_experts=model.num_experts,
        beside_bytes=_beside_bytes(model, number_bytes, beside),
        step_bytes=step_bytes(model, number_bytes, with_guesses(limits), rank)
        + graph_bytes(model, number_bytes, rank),
        frame_bytes=limits.tokens * expert_row_bytes(model, number_bytes, rank),
        link_bytes=_LINK_BYTES,
        gateway_adapter_bytes=adapters.gateway,
        expert_adapter_bytes=adapters.expert,
        shard_adapter_bytes=adapters.shard,
        token_bytes=token_bytes,
        least_cache_bytes=least * token_bytes,
        cache=cache,
    )


class _AdapterBytes(NamedTuple):
    gateway: float
    expert: float  # with one routed expert in all layers
    shard: float


def _adapters(model: ModelConfig, number_bytes: int, beside: Beside) -> _AdapterBytes:
    """What is set aside: the larger ones if there are more than can be loaded at one time."""
    if beside.adapters is None:
        return _AdapterBytes(0.0, 0.0, 0.0)
    tables = table_tensors(model)
    shard = allocated_bytes(tables.routed)
    own = shard + allocated_bytes(tables.dense)
    if beside.adapter_bytes is not None:
        return _AdapterBytes(own + beside.adapter_bytes, 0.0, shard + beside.adapter_bytes)
    each = [adapter_tensors(ranks, model, number_bytes) for ranks in beside.adapters]
    sizes = [(allocated_bytes(one.dense), allocated_bytes(one.routed)) for one in each]
    largest = sorted(sizes, key=sum, reverse=True)[:MAX_ADAPTERS]
    dense, routed = (sum(part) for part in zip(*largest, strict=True)) if largest else (0.0, 0.0)
    return _AdapterBytes(own + dense, routed / model.num_experts, shard)


def _beside_bytes(model: ModelConfig, number_bytes: int, beside: Beside) -> float:
    """Vision tower, features of images, images on their way; the Eagle head."""
    total = 0.0
    if model.vision is not None:
        tower = vision_tensors(model.vision, model.hidden_size, number_bytes)
        total += allocated_bytes(tower) + beside.vision.cache_bytes
        sizes = model.vision, model.hidden_size, number_bytes
        total += vision_work_bytes(*sizes, beside.vision.patches_per_batch)
    if beside.head is not None:
        total += allocated_bytes(head_tensors(beside.head, number_bytes, BLOCK_SIZE))
    return total


def _token_bytes(model: ModelConfig, head: ModelConfig | None, number_bytes: int) -> float:
    models = [model] if head is None else [model, head]
    return sum(block_bytes(one, BLOCK_SIZE, number_bytes) for one in models) / BLOCK_SIZE


def kept_shape(model: ModelConfig, experts: WeightFormat, dense: WeightFormat) -> ModelShape:
    """Sizes as weights are held, fp8 among the formats: fp8 checkpoints have the head in bf16."""
    shape = shape_of(model, experts, dense)
    if dense is not WeightFormat.FP8:
        return shape
    return replace(shape, head_bytes=shape.head_weights * WeightFormat.BF16.bits_per_weight / 8)
