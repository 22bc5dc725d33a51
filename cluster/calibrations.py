"""Which calibration holds for a model on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from cluster.config import ServeConfig
from cluster.doctor.store import StoredCalibration, default_path, load
from cluster.plan import HeldModel, held_model
from galerne.errors import ConfigError


def place_of(config: ServeConfig, held: HeldModel) -> Path:
    """The file that the settings name, or where this machine's last one for the model lies."""
    if config.calibration is not None:
        return config.calibration
    return default_path(platform.node(), held.shape, held.experts, held.dense)


def known_calibration(config: ServeConfig) -> StoredCalibration:
    """The one that the settings name, or this machine's last one.

    Raises:
        ConfigError: There is none, or it is of no use; names what differs.
        CheckpointError: The checkpoint cannot be used.
    """
    held = held_model(config)
    path = place_of(config, held)
    if not path.exists():
        raise ConfigError("calibration", path, "not measured yet: run galerne doctor first")
    return load(path, held.shape, held.experts, held.dense)
