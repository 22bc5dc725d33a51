"""Options that choose a calibration of this machine, and promises, for commands that plan by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.doctor.store import StoredCalibration

PROMPT_TOKENS, OUTPUT_TOKENS = 512.0, 128.0  # where nobody says or has seen any

_FORMAT = "bf16, int8 or int4; unset: stored"
Model = Annotated[Path | None, typer.Option(help="checkpoint directory; unset: the embedded model")]
Experts = Annotated[str | None, typer.Option(help=_FORMAT)]
Dense = Annotated[str | None, typer.Option(help=_FORMAT)]
CalibrationFile = Annotated[
    Path | None, typer.Option(help="of galerne doctor; unset: this machine's last one")
]
MoreNodes = Annotated[
    int, typer.Option(min=0, help="more machines like this one, for shards (gRPC)")
]
_MOST_S = "at most, seconds; 0: no matter; unset: as set"
TtftP95 = Annotated[float | None, typer.Option(min=0, help=_MOST_S)]
InterTokenP95 = Annotated[float | None, typer.Option(min=0, help=_MOST_S)]
MinCopies = Annotated[int | None, typer.Option(min=1, help="of every expert; unset: 1, or as set")]


def find_stored(
    model: Path | None, experts: str | None, dense: str | None, file: Path | None
) -> StoredCalibration:
    """Raises ConfigError if there is none for this model and these formats."""
    from cluster.calibrations import known_calibration
    from cluster.config import load_config

    asked = {"model": model, "experts": experts, "dense": dense, "calibration": file}
    return known_calibration(load_config(None, asked))


def source_of(stored: StoredCalibration) -> str:
    """Where the numbers come from, in words."""
    measured = f"measured on {stored.machine} {stored.measured_at:%Y-%m-%d %H:%M}"
    return f"{measured}, drift {stored.drift:+.0%}"
