"""Memory that weights take where gateways are on GPUs, and what they leave for the cache."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cluster.nodes import Node, Role
from cluster.planning.shape import ModelShape, shape_of
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import eagle_shapes
from shards.checkpoint.names import vision_shapes
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CUDA

_TIMEOUT_S = 20.0
_ASK_TIMEOUT_S = 90.0  # of a node: a worker process starts first
_WORKSPACE_BYTES = 2 << 30  # a step's rows, graphs, and CUDA's own


class GpuNeed(NamedTuple):
    """Bytes over all processes, and bytes that are left for latent caches on all GPUs."""

    weights: int
    free: int


def gpu_need(
    model: ModelConfig,
    topology: Topology,
    formats: tuple[WeightFormat, WeightFormat],
    replicas: int,
    free_bytes: int,
    beside: int = 0,
) -> GpuNeed:
    """For gateways with a GPU each, bf16 arithmetic.

    Args:
        model: Sizes; of an fp8 checkpoint fp8 stays where bf16 is asked for.
        topology: Of gateways and shards.
        formats: Of routed experts, and of the dense weights.
        replicas: Copies of every expert on shards.
        free_bytes: Of one GPU.
        beside: Bytes on every gateway's GPU for more than the text model: ``beside_bytes``.
    """
    experts, dense = (kept_on_gpu(model, held) for held in formats)
    shape, num_gateways = kept_shape(model, experts, dense), len(topology.gateways)
    own = shape.dense_bytes + beside
    away = shape.routed_bytes * replicas
    if topology.transport is LinkTransport.LOCAL:
        own, away = own + shape.routed_bytes, 0.0
    left = int(gpu_room(free_bytes) - own)
    return GpuNeed(int(own * num_gateways + away), left * num_gateways)


def kept_on_gpu(model: ModelConfig, held: WeightFormat) -> WeightFormat:
    """As a GPU holds weights: those of an fp8 checkpoint stay as they are. Pure."""
    return WeightFormat.FP8 if model.is_fp8 and held is WeightFormat.BF16 else held


def kept_shape(model: ModelConfig, experts: WeightFormat, dense: WeightFormat) -> ModelShape:
    """Sizes as weights are held, fp8 among the formats: fp8 checkpoints have the head in bf16."""
    shape = shape_of(model, experts, dense)
    if dense is not WeightFormat.FP8:
        return shape
    return replace(shape, head_bytes=shape.head_weights * WeightFormat.BF16.bits_per_weight / 8)


def gpu_room(free_bytes: int) -> float:
    """Of a GPU with so much free memory, what weights and caches may take. Pure."""
    return max(float(free_bytes - _WORKSPACE_BYTES), 0.0)


def beside_bytes(model: ModelConfig, image_cache_bytes: int, head: ModelConfig | None) -> int:
    """Vision tower, features of images, and the Eagle head on one gateway's GPU.

    Args:
        model: Whose images; without a vision tower there are none.
        image_cache_bytes: Most that features may take.
        head: Sizes of the head, if one guesses; fp8 ones stay fp8.
    """
    total = 0
    if model.vision is not None:
        shapes = vision_shapes(model.vision, model.hidden_size)
        total += 2 * sum(map(math.prod, shapes.values())) + image_cache_bytes
    if head is not None:
        total += (1 if head.is_fp8 else 2) * sum(map(math.prod, eagle_shapes(head).values()))
    return total


def free_gpu_bytes_on(nodes: Sequence[Node]) -> int:
    """Of the GPU that has least on those of these Ray nodes that gateways may be placed on.

    Asks each of them by a Ray task, which claims nothing. Ray must be connected.

    Raises:
        ConfigError: One does not answer, or has no GPU.
    """
    usable = [n for n in nodes if n.num_cpus > 0 and n.num_gpus > 0 and n.role is not Role.SHARD]
    asked = [node for node in usable if node.role is Role.GATEWAY] or usable
    if not asked:
        raise ConfigError("device", CUDA, "no node of the Ray cluster that may hold it has a GPU")
    return min(_ask(node) for node in asked)


def _ask(node: Node) -> int:
    import ray  # late: most plans need none
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task: Any = ray.remote(free_gpu_bytes).options(num_cpus=0, scheduling_strategy=there)
    try:
        free: int = ray.get(task.remote(), timeout=_ASK_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        problem = f"node {node.id}: {getattr(error.cause, 'problem', error.cause)}"
        raise ConfigError("device", CUDA, problem) from error
    except ray.exceptions.RayError as error:
        problem = f"node {node.id} did not say how much memory its GPUs have: {error}"
        raise ConfigError("device", CUDA, problem) from error
    return free


def free_gpu_bytes() -> int:
    """Of the GPU of this machine that has least; asked of its driver, so that no torch is loaded.

    Raises:
        ConfigError: There is none.
    """
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        return min(int(line) for line in done.stdout.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        problem = f"nvidia-smi tells of no GPU on this machine: {error}"
        raise ConfigError("device", CUDA, problem) from error
