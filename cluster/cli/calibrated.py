"""Options that choose a calibration of this machine, and promises, for commands that plan by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from galerne.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config import ServeConfig
    from cluster.doctor.store import StoredCalibration

PROMPT_TOKENS, OUTPUT_TOKENS = 512.0, 128.0  # where nobody says or has seen any

_FORMAT = "bf16, int8 or int4; unset: stored"
Model = Annotated[Path | None, typer.Option(help="checkpoint directory; unset: the embedded model")]
Experts = Annotated[str | None, typer.Option(help=_FORMAT)]
Dense = Annotated[str | None, typer.Option(help=_FORMAT)]
CalibrationFile = Annotated[
    Path | None, typer.Option(help="of galerne doctor; unset: this machine's last one")
]
Device = Annotated[
    Literal["cpu", "cuda"] | None, typer.Option(help="of gateways, as measured; unset: cpu")
]
ShardDevice = Annotated[
    Literal["cpu", "cuda"] | None, typer.Option(help="of shards, as measured; unset: cpu")
]
MoreNodes = Annotated[
    int, typer.Option(min=0, help="more machines like this one, for shards (gRPC)")
]
_MOST_S = "at most, seconds; 0: no matter; unset: as set"
TtftP95 = Annotated[float | None, typer.Option(min=0, help=_MOST_S)]
InterTokenP95 = Annotated[float | None, typer.Option(min=0, help=_MOST_S)]
MinCopies = Annotated[int | None, typer.Option(min=1, help="of every expert; unset: 1, or as set")]


def find_stored(
    model: Path | None,
    experts: str | None,
    dense: str | None,
    file: Path | None,
    devices: tuple[str | None, str | None] = (None, None),
) -> StoredCalibration:
    """Raises ConfigError if there is none for this model, these formats and devices."""
    from cluster.calibrations import known_calibration

    return known_calibration(settings_of(model, experts, dense, file, devices))


def settings_of(
    model: Path | None,
    experts: str | None,
    dense: str | None,
    file: Path | None,
    devices: tuple[str | None, str | None] = (None, None),
) -> ServeConfig:
    """Those that ``galerne serve`` would have with these flags alone."""
    from cluster.config import load_config

    asked = {"model": model, "experts": experts, "dense": dense, "calibration": file}
    return load_config(None, asked | {"device": devices[0], "shard_device": devices[1]})


def with_gpus(
    stored: StoredCalibration, number: int | None, gigabytes: float | None
) -> StoredCalibration:
    """As if each machine had so many GPUs, so large; None: as measured.

    Raises:
        ConfigError: Nothing was measured on a GPU.
    """
    asked = {"gpus": number, "gpu_gb": gigabytes}
    for name, value in asked.items():
        if value is not None and stored.gpus is None:
            raise ConfigError(name, value, "goes with device cuda: this calibration is of CPUs")
    if stored.gpus is None:
        return stored
    free_bytes = stored.gpus.free_bytes if gigabytes is None else int(gigabytes * 1e9)
    gpus = replace(stored.gpus, number=number or stored.gpus.number, free_bytes=free_bytes)
    return replace(stored, gpus=gpus)


def source_of(stored: StoredCalibration) -> str:
    """Where the numbers come from, in words."""
    measured = f"measured on {stored.machine} {stored.measured_at:%Y-%m-%d %H:%M}"
    if stored.gpus is not None:
        measured += f", {stored.gpus.name}, machines of {stored.gpus.number}"
    return f"{measured}, drift {stored.drift:+.0%}"
