"""A calibration as a JSON file: what was measured, where, when, and how far it drifted."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.doctor.fit import Residuals
from cluster.planning.costs import (
    Calibration,
    Cost,
    Curve,
    ExpertCost,
    Knot,
    Linear,
    LinkCosts,
    NodeCosts,
    Scatter,
)
from cluster.planning.shape import ModelShape
from galerne.errors import ConfigError
from galerne.topology import LinkTransport
from shards.kernels.formats import FORMATS, WeightFormat
from shards.kernels.kinds import CPU

VERSION = 2
_CACHE_VARIABLE = "XDG_CACHE_HOME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """GPUs of one machine, alike."""

    name: str
    number: int
    free_bytes: int  # of the one that has least


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """A calibration and what it holds for."""

    machine: str
    cpu: str
    num_cores: int
    shape: ModelShape  # of the whole model; no fingerprint: weights of one shape cost the same
    experts: WeightFormat
    dense: WeightFormat
    measured_at: datetime  # with a time zone
    drift: float  # last round against first, median over steps: the machine's own
    residuals: Mapping[str, Residuals]  # of each fit
    calibration: Calibration
    device: str = CPU  # of gateways
    shard_device: str = CPU
    gpus: Gpus | None = None  # where one of these is a GPU


def default_path(
    machine: str,
    shape: ModelShape,
    experts: WeightFormat,
    dense: WeightFormat,
    devices: tuple[str, str] = (CPU, CPU),
) -> Path:
    """In the user's cache directory, a file for every machine, shape, pair of formats, of devices.

    ``devices``: of gateways, and of shards.
    """
    cache = os.environ.get(_CACHE_VARIABLE) or Path.home() / ".cache"
    size = f"{shape.num_layers}x{shape.num_experts}x{shape.hidden_size}-{shape.expert_weights}"
    name = f"{machine}-{size}-{experts.label}-{dense.label}"
    if devices != (CPU, CPU):
        name += f"-{'-'.join(devices)}"
    return Path(cache) / "galerne" / "calibration" / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.json"


def save(stored: StoredCalibration, path: Path) -> None:
    """Write it, whole or not at all.

    Raises:
        ConfigError: The file cannot be written.
    """
    text = json.dumps(encode(stored), indent=1, sort_keys=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text + "\n")
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()  # what there is of it
        raise ConfigError("out", path, str(error)) from error


def load(
    path: Path,
    shape: ModelShape,
    experts: WeightFormat,
    dense: WeightFormat,
    devices: tuple[str, str] = (CPU, CPU),
) -> StoredCalibration:
    """Read one that was measured for this shape, these formats and devices.

    Raises:
        ConfigError: Names the field that differs, or what is wrong with the file.
    """
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError("calibration", path, str(error)) from error
    version = told.get("version") if isinstance(told, dict) else None
    if version != VERSION:
        problem = f"must be {VERSION}: measure again with galerne doctor: {path}"
        raise ConfigError("calibration.version", version, problem)
    try:
        stored = decode(told)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{path}: {type(error).__name__}: {error}"
        raise ConfigError("calibration", path.name, problem) from error
    _same("device", stored.device, devices[0])
    _same("shard_device", stored.shard_device, devices[1])
    for field in fields(ModelShape):
        _same(f"shape.{field.name}", getattr(stored.shape, field.name), getattr(shape, field.name))
    _same("experts", stored.experts.label, experts.label)
    _same("dense", stored.dense.label, dense.label)
    return stored


def encode(stored: StoredCalibration) -> dict[str, Any]:
    """As plain values; ``decode`` undoes it."""
    costs = stored.calibration
    return {
        "version": VERSION,
        "machine": stored.machine,
        "cpu": stored.cpu,
        "num_cores": stored.num_cores,
        "shape": asdict(stored.shape),
        "experts": stored.experts.label,
        "dense": stored.dense.label,
        "measured_at": stored.measured_at.isoformat(),
        "device": stored.device,
        "shard_device": stored.shard_device,
        "gpus": None if stored.gpus is None else asdict(stored.gpus),
        "drift": stored.drift,
        "residuals": {name: asdict(residuals) for name, residuals in stored.residuals.items()},
        "calibration": {
            "gateway": asdict(costs.gateway),
            "shard": asdict(costs.shard),
            "links": {transport.value: asdict(link) for transport, link in costs.links.items()},
            "request_s": costs.request_s,
            "frontend_s": costs.frontend_s,
            "answer": asdict(costs.answer),
            "scatter": None if costs.scatter is None else asdict(costs.scatter),
        },
    }


def decode(told: Mapping[str, Any]) -> StoredCalibration:
    """From plain values.

    Raises:
        KeyError, TypeError, ValueError: They are not what ``encode`` gives.
    """
    costs = told["calibration"]
    gpus = told.get("gpus")
    return StoredCalibration(
        machine=told["machine"],
        cpu=told["cpu"],
        num_cores=told["num_cores"],
        shape=ModelShape(**told["shape"]),
        experts=FORMATS[told["experts"]],
        dense=FORMATS[told["dense"]],
        measured_at=datetime.fromisoformat(told["measured_at"]),
        # Files from before there were GPUs have none of these.
        device=told.get("device", CPU),
        shard_device=told.get("shard_device", CPU),
        gpus=None if gpus is None else Gpus(**gpus),
        drift=told["drift"],
        residuals={name: Residuals(**each) for name, each in told["residuals"].items()},
        calibration=Calibration(
            gateway=_node(costs["gateway"]),
            shard=_node(costs["shard"]),
            links={LinkTransport(name): LinkCosts(**each) for name, each in costs["links"].items()},
            request_s=costs["request_s"],
            frontend_s=costs["frontend_s"],
            answer=_cost("answer", costs["answer"]),
            scatter=None if costs["scatter"] is None else Scatter(**costs["scatter"]),
        ),
    )


def _node(told: Mapping[str, Any]) -> NodeCosts:
    lines = {name: _cost(name, told[name]) for name in ("layer", "layer_beside", "head", "step")}
    experts = {name: ExpertCost(**told[name]) for name in ("experts", "shard_experts")}
    return NodeCosts(**(dict(told) | lines | experts))


def _cost(field: str, told: Mapping[str, Any]) -> Cost:
    try:
        if "knots" in told:
            return Curve(tuple(Knot(*map(float, knot)) for knot in told["knots"]))
        return Linear(**told)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field}: {error}") from error


def _same(field: str, stored: object, asked: object) -> None:
    if stored != asked:
        raise ConfigError(f"calibration.{field}", stored, f"measured for another: {asked} is asked")
