"""Which calibration holds for a model on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from cluster.config import ServeConfig
from cluster.doctor.store import StoredCalibration, default_path, load
from cluster.gpu_memory import gpu_room
from cluster.node_kinds import local_cluster
from cluster.plan import HeldModel, held_model
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


def gpu_use_of(stored: StoredCalibration) -> GpuUse:
    """Which parts compute on GPUs, as it was measured. Pure."""
    room = 0.0 if stored.gpus is None else gpu_room(stored.gpus.free_bytes)
    return GpuUse(stored.device == CUDA, stored.shard_device == CUDA, room)


def measured_cluster(
    stored: StoredCalibration, shard_nodes: int = 0, *, trusts_network: bool = False
) -> ClusterShape:
    """The machine that was measured, and so many more like it for shards alone.

    Raises:
        ConfigError: Its parts compute on GPUs, and the file knows of none.
    """
    try:
        return local_cluster(
            stored.num_cores,
            stored.calibration.links,
            shard_nodes,
            num_gpus=0 if stored.gpus is None else stored.gpus.number,
            gpu_use=gpu_use_of(stored),
            trusts_network=trusts_network,
        )
    except ValueError as error:
        raise ConfigError("calibration.gpus", stored.gpus, str(error)) from error
