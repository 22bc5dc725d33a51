"""The GPUs of this machine, as far as the doctor needs to know them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cluster.doctor.store import Gpus
from cluster.gpu_free import free_gpu_bytes
from galerne.errors import ConfigError
from shards.kernels.kinds import CPU, CUDA, torch_device

_READ_BYTES = 2 << 30  # far beyond a GPU's cache
_TRIES = 5
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts(Gpus):
    """With speeds, of the first one."""

    read_bytes_per_s: float  # of its memory


def check_devices(device: str, shard_device: str) -> None:
    """Before anything is measured.

    Raises:
        ConfigError: Shards on a GPU without gateways on one, or this machine has none.
    """
    if device == CPU and shard_device != CPU:
        raise ConfigError("shard_device", shard_device, f"goes with device {CUDA}")
    torch_device(device)


def measure_gpus() -> GpuFacts:
    """About a second; takes 2 GiB of the first GPU meanwhile. Not yet run on a GPU.

    Raises:
        ConfigError: There is none.
    """
    device = torch_device(CUDA)
    free_bytes = free_gpu_bytes()
    return GpuFacts(
        name=torch.cuda.get_device_name(device),
        number=torch.cuda.device_count(),
        free_bytes=free_bytes,
        read_bytes_per_s=gpu_bandwidth(device, min(_READ_BYTES, free_bytes // 2)),
    )


def gpu_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second of a sum over the device's memory; the best of several."""
    values = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    best_s = float("inf")
    for _ in range(_TRIES):
        synchronise(device)
        started = time.perf_counter()
        values.sum()
        synchronise(device)
        best_s = min(best_s, time.perf_counter() - started)
    return num_bytes / best_s


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was launched."""
    if device.type == CUDA:
        torch.cuda.synchronize(device)


def shard_gpus(num_gpus: int) -> int:
    """GPUs that shards of a measurement can have to themselves, or one that is the gateway's."""
    return max(num_gpus - 1, 1)


def visible_to_shard(number: int, num_gpus: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which a shard sees one GPU; the gateway has the first, if there are more. Pure.

    ``number``: of the shard; ``environment``: ours, which may show us some GPUs alone.
    """
    shown = [name for name in environment.get(_VISIBLE, "").split(",") if name]
    names = shown or [str(index) for index in range(num_gpus)]
    first = 1 if num_gpus > 1 else 0
    return {_VISIBLE: names[first + number % shard_gpus(num_gpus)]}


def nccl_omission(num_gpus: int, nccl_problem: str) -> str:
    """Why links by NCCL are not measured between shards on GPUs; empty if they are. Pure."""
    if nccl_problem:
        return nccl_problem
    if num_gpus < 2:
        return f"it takes two GPUs, and there is {num_gpus}"
    return ""
