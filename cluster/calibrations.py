"""Which calibration holds for a model on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from cluster.config import ServeConfig
from cluster.doctor.store import StoredCalibration, default_path, load
from cluster.gpu_memory import FreeGpus
from cluster.node_kinds import local_cluster
from cluster.plan import HeldModel, gpu_memory_of, held_model
from cluster.planning.cluster_shape import ClusterShape, GpuUse
from galerne.errors import ConfigError
from shards.kernels.kinds import CPU, CUDA


def place_of(config: ServeConfig, held: HeldModel) -> Path:
    """The file that the settings name, or where this machine's last one for the model lies."""
    if config.calibration is not None:
        return config.calibration
    devices = config.device, config.shard_device
    return default_path(platform.node(), held.shape, held.experts, held.dense, devices)


def known_calibration(config: ServeConfig) -> StoredCalibration:
    """The one that the settings name, or this machine's last one.

    Raises:
        ConfigError: There is none, or it is of no use; names what differs.
        CheckpointError: The checkpoint cannot be used.
    """
    return calibration_of(config, held_model(config))


def calibration_of(config: ServeConfig, held: HeldModel) -> StoredCalibration:
    """``known_calibration`` where the checkpoint is open already.

    Raises:
        ConfigError: There is none, or it is of no use; names what differs.
    """
    path = place_of(config, held)
    if not path.exists():
        flags = "".join(
            f" --{name.replace('_', '-')} {value}"
            for name in ("device", "shard_device")
            if (value := getattr(config, name)) != CPU
        )
        problem = f"not measured yet: run galerne doctor{flags} first"
        raise ConfigError("calibration", path, problem)
    return load(path, held.shape, held.experts, held.dense, (config.device, config.shard_device))


def gpu_use_of(
    stored: StoredCalibration, config: ServeConfig, free: FreeGpus | None = None
) -> GpuUse:
    """Which parts compute on GPUs, as it was measured, and what they take as the settings have it.

    ``free``: of GPUs now; None: as when it was measured.

    Raises:
        ConfigError, CheckpointError: See ``gpu_memory_of``.
    """
    if stored.gpus is None or stored.device != CUDA:
        return GpuUse(stored.device == CUDA, stored.shard_device == CUDA)
    free = free or FreeGpus(stored.gpus.free_bytes, stored.gpus.free_bytes)
    memory = gpu_memory_of(config, held_model(config), free)
    return GpuUse(True, stored.shard_device == CUDA, memory)


def measured_cluster(
    stored: StoredCalibration,
    config: ServeConfig,
    shard_nodes: int = 0,
    *,
    free: FreeGpus | None = None,
    trusts_network: bool = False,
) -> ClusterShape:
    """The machine that was measured, and so many more like it for shards alone.

    Args:
        stored: What was measured.
        config: Settings of what is to be served.
        shard_nodes: More machines.
        free: Of GPUs now; None: as when it was measured.
        trusts_network: Whether NCCL may leave a host, in plain text.

    Raises:
        ConfigError: Its parts compute on GPUs, and the file knows of none; or see
            ``gpu_memory_of``.
        CheckpointError: The checkpoint cannot be used.
    """
    try:
        return local_cluster(
            stored.num_cores,
            stored.calibration.links,
            shard_nodes,
            num_gpus=0 if stored.gpus is None else stored.gpus.number,
            gpu_use=gpu_use_of(stored, config, free),
            trusts_network=trusts_network,
        )
    except ValueError as error:
        raise ConfigError("calibration.gpus", stored.gpus, str(error)) from error
