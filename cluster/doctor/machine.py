"""What this machine gives: memory, arithmetic, disk, ports. Measures the local machine alone."""

from __future__ import annotations

import mmap
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from cluster.doctor.gpu import GpuFacts, measure_gpus
from cluster.ports import LOOPBACK, is_free
from shards.cores import available_cores
from shards.kernels.formats import WeightFormat
from shards.kernels.native.library import native_kernels
from shards.kernels.native.packing import pack
from shards.nccl.availability import nccl_problem
from shards.shm.memory import OwnedMemory
from shards.shm.rings import ring_library

_READ_BYTES = 512 << 20  # far beyond any cache
_GEMM_ROWS, _GEMM_OUT, _GEMM_IN = 252, 2048, 256  # weights that stay in a core's cache
_GEMM_TRIES = 30
_DISK_BYTES = 256 << 20
_DISK_CHUNK = 4 << 20
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine, as measured."""

    name: str
    cpu: str
    num_cores: int
    memory_bytes: int
    free_bytes: int
    read_bytes_per_s: float  # memory, all cores
    read_bytes_per_s_one: float  # memory, one core
    gemm_flops: float  # bf16, all cores, weights in the cache; a multiply-add counts 2
    kernels: str  # family of the native kernels, or torch
    disk_bytes_per_s: float  # of the checkpoint's directory
    disk_is_direct: bool  # past the page cache; else what was read before may have been in it
    clock_skew_s: float  # against the other machines measured: 0, there is one
    is_port_free: Mapping[int, bool]
    shared_memory_problem: str  # empty: frames can go by shared memory
    nccl_problem: str  # empty: rows can go from GPU to GPU
    num_gpus: int
    gpus: GpuFacts | None = None  # where they were asked for


def measure_machine(
    checkpoint: Path, ports: Sequence[int] = (), host: str = LOOPBACK, *, with_gpus: bool = False
) -> Machine:
    """About a second; takes half a GiB of memory meanwhile, and 2 GiB of a GPU if it is asked for.

    Raises:
        OSError: The checkpoint's directory cannot be read.
        ConfigError: A GPU is asked for, and there is none.
    """
    gpus = measure_gpus() if with_gpus else None
    memory = psutil.virtual_memory()
    kernels = native_kernels()
    disk, is_direct = read_speed(checkpoint)
    return Machine(
        name=platform.node(),
        cpu=cpu_name(),
        num_cores=available_cores(),
        memory_bytes=memory.total,
        free_bytes=memory.available,
        read_bytes_per_s=read_bandwidth(available_cores()),
        read_bytes_per_s_one=read_bandwidth(1),
        gemm_flops=gemm_rate(available_cores()),
        kernels="torch" if kernels is None else kernels.family,
        disk_bytes_per_s=disk,
        disk_is_direct=is_direct,
        clock_skew_s=0.0,
        is_port_free={port: is_free(host, port) for port in ports if port},
        shared_memory_problem=shared_memory_problem(),
        nccl_problem=nccl_problem(),
        num_gpus=torch.cuda.device_count(),
        gpus=gpus,
    )


def read_bandwidth(num_threads: int, num_bytes: int = _READ_BYTES) -> float:
    """Bytes a second of a sum over memory; the best of three."""
    had_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        values = torch.ones(num_bytes // 8, dtype=torch.int64)
        return num_bytes / _best_s(values.sum, 3)
    finally:
        torch.set_num_threads(had_threads)


def gemm_rate(num_threads: int) -> float:
    """Operations a second of the product that layers use, on weights that stay in the cache.

    The native kernels', or torch's where there are none.
    """
    kernels = native_kernels()
    x = torch.randn(_GEMM_ROWS, _GEMM_IN).to(torch.bfloat16)
    weight = torch.randn(_GEMM_OUT, _GEMM_IN).to(torch.bfloat16)
    out = torch.empty((_GEMM_ROWS, _GEMM_OUT), dtype=torch.bfloat16)
    operations = 2.0 * _GEMM_ROWS * _GEMM_OUT * _GEMM_IN
    if kernels is not None:
        packed = pack(weight, WeightFormat.BF16)
        return operations / _best_s(
            lambda: kernels.linear(x, packed, out, num_threads), _GEMM_TRIES
        )
    had_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        return operations / _best_s(lambda: torch.mm(x, weight.t(), out=out), _GEMM_TRIES)
    finally:
        torch.set_num_threads(had_threads)


def read_speed(directory: Path, num_bytes: int = _DISK_BYTES) -> tuple[float, bool]:
    """Bytes a second from the directory's largest file, and whether past the page cache.

    Raises:
        OSError: There is no file to read.
    """
    files = [path for path in directory.iterdir() if path.is_file()]
    if not files:
        raise FileNotFoundError(f"{directory}: no file to read")
    largest = max(files, key=lambda path: path.stat().st_size)
    try:
        return _read(largest, num_bytes, getattr(os, "O_DIRECT", 0)), hasattr(os, "O_DIRECT")
    except OSError:  # a file system without O_DIRECT, as tmpfs
        return _read(largest, num_bytes, 0), False


def shared_memory_problem() -> str:
    """Why frames cannot go by shared memory here; empty if they can."""
    if ring_library() is None:
        return "the native library is missing"
    try:
        OwnedMemory(1 << 16).withdraw()
    except OSError as error:
        return str(error)
    return ""


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _read(path: Path, num_bytes: int, flags: int) -> float:
    num_read = 0
    with mmap.mmap(-1, _DISK_CHUNK) as buffer:  # pages, as O_DIRECT wants them
        fd = os.open(path, os.O_RDONLY | flags)
        try:
            started = time.perf_counter()
            while num_read < num_bytes:
                count = os.readv(fd, [buffer])
                num_read += count
                if count < _DISK_CHUNK:
                    break
            seconds = time.perf_counter() - started
        finally:
            os.close(fd)
    return num_read / max(seconds, 1e-9)


def _best_s(work: Callable[[], object], tries: int) -> float:
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
