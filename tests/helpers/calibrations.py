"""Calibrations and machines with made-up numbers, for tests of what reads them."""

from dataclasses import replace
from datetime import UTC, datetime

from cluster.demo import MODEL_DIRECTORY
from cluster.doctor.fit import Residuals
from cluster.doctor.machine import Machine
from cluster.doctor.store import StoredCalibration, save
from cluster.planning.costs import (
    Calibration,
    Curve,
    ExpertCost,
    Knot,
    Linear,
    LinkCosts,
    NodeCosts,
    Scatter,
)
from cluster.planning.shape import shape_of
from galerne.topology import LinkTransport
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

BF16 = WeightFormat.BF16
SHAPE = shape_of(preset("1b"), BF16, BF16)


def node(**changes):
    costs = NodeCosts(
        layer=Curve((Knot(1.0, 1e-4), Knot(64.0, 2.3e-4), Knot(1024.0, 2.2e-3))),
        layer_beside=Linear(2e-4, 3e-6),
        attention_s=1e-9,
        experts=ExpertCost(fixed_s=1e-5, per_expert_s=4e-5, per_row_s=1e-6),
        shard_experts=ExpertCost(fixed_s=1e-5, per_expert_s=8e-5, per_row_s=2e-6),
        head=Linear(4e-4, 1e-6),
        step=Linear(1e-4, 5e-6),
        num_workers=2,
        chunk_attention_s=5e-10,
    )
    return replace(costs, **changes)


def calibration(**changes):
    link = LinkCosts(gateway_s=1e-5, shard_s=1e-5, latency_s=2e-5, bytes_per_s=2e9)
    return Calibration(
        gateway=node(**changes),
        shard=node(**changes),
        links={LinkTransport.SHM: link, LinkTransport.GRPC: replace(link, latency_s=2e-4)},
        request_s=1e-4,
        frontend_s=1e-3,
        answer=Linear(1e-5, 1e-4),
        scatter=Scatter(gap_p50=0.8, gap_p95=2.0, first_p95=1.5),
    )


def stored(**changes):
    fields = {
        "machine": "a machine",
        "cpu": "a cpu",
        "num_cores": 2,
        "shape": SHAPE,
        "experts": BF16,
        "dense": BF16,
        "measured_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "drift": -0.02,
        "residuals": {"layer": Residuals(0.01, 0.05)},
        "calibration": calibration(),
    }
    return StoredCalibration(**fields | changes)


def save_embedded(file):
    """Those of the embedded model, for commands that read a file; their flags."""
    config = open_checkpoint(MODEL_DIRECTORY).config
    save(stored(shape=shape_of(config, BF16, BF16)), file)
    return ["--experts", "bf16", "--dense", "bf16", "--calibration", str(file)]


def machine(**changes):
    fields = {
        "name": "a machine",
        "cpu": "a cpu",
        "num_cores": 2,
        "memory_bytes": 24 << 30,
        "free_bytes": 20 << 30,
        "read_bytes_per_s": 40e9,
        "read_bytes_per_s_one": 20e9,
        "gemm_flops": 5e11,
        "kernels": "avx512bf16",
        "disk_bytes_per_s": 1e9,
        "disk_is_direct": True,
        "clock_skew_s": 0.0,
        "is_port_free": {8000: True, 9000: True},
        "shared_memory_problem": "",
        "nccl_problem": "cupy is not installed",
        "num_gpus": 0,
    }
    return Machine(**fields | changes)
