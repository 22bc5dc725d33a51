"""The real measurement, on a tiny shape and with little time."""

import math
import secrets
import time
from dataclasses import asdict, replace

from cluster.doctor.examine import calibrate
from cluster.doctor.setup import Subject
from cluster.doctor.small_model import write_small_model
from cluster.doctor.steps import MeasurePlan
from cluster.plan import EMBEDDED_VOCAB_SIZE
from galerne.topology import LinkTransport
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

PLAN = MeasurePlan(
    decode_sequences=(1, 4, 16),
    prefill_tokens=(32, 128),
    contexts=(32, 256),
    exchange_tokens=(1, 16),
    shard_counts=(1, 2),
    budget_s=8.0,
)


def numbers(value):
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    else:
        yield value


def test_every_cost_is_measured(tmp_path):
    path = tmp_path / "model"
    subject = Subject(
        path=path,
        model=write_small_model(path, replace(preset("tiny"), vocab_size=EMBEDDED_VOCAB_SIZE)),
        experts=WeightFormat.BF16,
        dense=WeightFormat.BF16,
        cluster_token=secrets.token_hex(32),
    )
    costs, residuals, local = calibrate(subject, PLAN, time.monotonic() + PLAN.budget_s)
    assert set(costs.links) == {LinkTransport.SHM, LinkTransport.GRPC}
    for link in costs.links.values():
        assert all(math.isfinite(n) and n >= 0 for n in numbers(asdict(link)))
    for node in (costs.gateway, costs.shard):
        told = asdict(node)
        assert told.pop("is_gpu") is False
        assert all(math.isfinite(n) and n > 0 for n in numbers(told))
    assert costs.request_s > 0
    assert costs.frontend_s > 0
    assert costs.answer.seconds(16) >= costs.answer.seconds(1) > 0
    assert {"layer", "layer_beside", "experts", "shard_experts", "head", "step"} < set(residuals)
    assert all(step.seconds > 0 for step in local.engine.steps)
