"""How much memory GPUs have free: asked of their drivers, here or on other nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any, Final

from cluster.gpu_memory import FreeGpus
from cluster.nodes import Node, Role
from galerne.errors import ConfigError
from shards.kernels.kinds import CUDA

_TIMEOUT_S: Final = 20.0
_ASK_TIMEOUT_S: Final = 90.0  # of a node: a worker process starts first


def free_gpus_here() -> FreeGpus:
    """Of this machine: a part may be on any.

    Raises:
        ConfigError: There is no GPU.
    """
    free = free_gpu_bytes()
    return FreeGpus(free, free)


def free_gpus_on(nodes: Sequence[Node], *, for_shards: bool) -> FreeGpus:
    """Of nodes of a Ray cluster. ``for_shards``: whether they need GPUs too.

    Raises:
        ConfigError: See ``free_gpu_bytes_on``.
    """
    gateways = free_gpu_bytes_on(nodes)
    apart = any(node.num_gpus > 0 and node.role is not Role.GATEWAY for node in nodes)
    if not (for_shards and apart):
        return FreeGpus(gateways, gateways)
    return FreeGpus(gateways, free_gpu_bytes_on(nodes, Role.SHARD))


def free_gpu_bytes_on(nodes: Sequence[Node], role: Role = Role.GATEWAY) -> int:
    """Of the GPU that has least on those of these Ray nodes that parts of a role may be placed on.

    Asks each of them by a Ray task, which claims nothing. Ray must be connected.

    Raises:
        ConfigError: One does not answer, or has no GPU.
    """
    usable = [n for n in nodes if n.num_cpus > 0 and n.num_gpus > 0 and n.role in (role, None)]
    asked = [node for node in usable if node.role is role] or usable
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
