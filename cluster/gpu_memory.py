"""Memory that weights take where gateways are on GPUs, and what they leave for the cache."""

from __future__ import annotations

import math
import subprocess
from typing import NamedTuple

from cluster.planning.shape import shape_of
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import eagle_shapes
from shards.checkpoint.names import vision_shapes
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CUDA

_TIMEOUT_S = 20.0
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
    experts, dense = (
        WeightFormat.FP8 if model.is_fp8 and f is WeightFormat.BF16 else f for f in formats
    )
    shape, num_gateways = shape_of(model, experts, dense), len(topology.gateways)
    # The head stays as it is in fp8 checkpoints.
    head = shape.head_weights * 2 if dense is WeightFormat.FP8 else shape.head_bytes
    own = shape.dense_bytes - shape.head_bytes + head + beside
    if topology.transport is LinkTransport.LOCAL:
        own += shape.routed_bytes
        return GpuNeed(int(own * num_gateways), _left(free_bytes, own) * num_gateways)
    everywhere = own * num_gateways + shape.routed_bytes * replicas
    return GpuNeed(int(everywhere), _left(free_bytes, own) * num_gateways)


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


def _left(free_bytes: int, weights: float) -> int:
    return int(free_bytes - weights - _WORKSPACE_BYTES)


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
