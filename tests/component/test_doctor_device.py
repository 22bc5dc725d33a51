"""The doctor's measurement of a gateway on a GPU: on a GPU, or by Triton's interpreter."""

import math
import secrets
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from cluster.doctor.device_times import ExpertRuns, SyncedTimer
from cluster.doctor.measure_node import measure_node
from cluster.doctor.setup import Subject, gateway_settings, topology_of
from cluster.doctor.small_model import write_small_model
from cluster.doctor.steps import MeasurePlan, chunks_of, routing_of, run_step
from galerne.topology import LinkTransport
from helpers.triton_device import DEVICE, DEVICE_NAME, HAS_GPU
from router.gateway.build import build_gateway
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat

BF16 = WeightFormat.BF16
PLAN = MeasurePlan(
    decode_sequences=(1,), prefill_tokens=(4,), contexts=(4,), exchange_tokens=(1,), budget_s=1.0
)


def subject_at(path):
    small = replace(preset("tiny"), num_layers=1)  # interpreted, a step takes half a second
    return Subject(
        path=path,
        model=write_small_model(path, small, 1 << 20),
        experts=BF16,
        dense=BF16,
        cluster_token=secrets.token_hex(32),
        device=DEVICE_NAME,
        num_gpus=1,
    )


@pytest.mark.timeout(300)
def test_layers_experts_head_and_engine_are_measured_on_the_device(tmp_path):
    local = measure_node(subject_at(tmp_path / "model"), PLAN, time.monotonic() + PLAN.budget_s)
    assert local.layer.attention_s > 0
    assert local.layer.layer.seconds(1) > 0
    experts = asdict(local.experts)
    assert all(math.isfinite(s) and s > 0 for s in experts.values())
    assert local.head.seconds(1) > 0
    assert local.engine.step.seconds(1) > 0
    # What is told apart is what a step takes: no part is counted twice.
    [one, *_] = local.engine.steps
    whole = local.layer.layer.seconds(1) + local.head.seconds(1)
    assert one.seconds > 0.2 * whole


def test_experts_alone_compute_what_they_compute_in_a_step(tmp_path):
    """The rows of the recorded runs are those that the bank gives for the same routing."""
    subject = subject_at(tmp_path / "model")
    [step, *_] = PLAN.steps(subject.model.max_position_embeddings)
    settings = gateway_settings(subject, topology_of(subject.model, LinkTransport.LOCAL, 1), [step])
    built = build_gateway(settings, None, lambda _: None, lambda *_: None)
    try:
        built.runner.timer = SyncedTimer(DEVICE)
        chunks = chunks_of(step, subject.model.vocab_size, 0)
        routing = routing_of(built.runner, chunks)
        bank = built.runner.exchange.bank
        experts = [bank.layers[layer] for layer in range(subject.model.num_layers)]
        runs = ExpertRuns(experts, routing, subject.model.hidden_size, records=HAS_GPU)
        assert runs.seconds() > 0
        for layer, rows in enumerate(runs._launch()):
            wanted = bank.run_all(layer, runs._x, routing[layer])
            assert np.array_equal(rows.float().cpu().numpy(), wanted.float().cpu().numpy())
        sample = run_step(built.runner, 1, chunks)
        assert set(built.runner.timer.snapshot()) == {"embed", "layers", "head"}
        assert sample.loop_s > 0
    finally:
        built.runner.close()
