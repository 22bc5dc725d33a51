"""What a step costs, against the measured machine and against counting."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.exchange import RoundTrip, queued_service
from cluster.planning.spread import fullest, spread
from cluster.planning.step import StepWork, step_parts
from helpers.placements import relaxed
from helpers.planning import (
    CONTEXT,
    EXPERT_LAYER_MS_BY_TOKENS,
    EXPERTS,
    FAR,
    LOCAL,
    NEAR,
    SHAPE,
    create_calibration,
)


def step_s(candidate, num_decoding, num_prefill=0.0, peers=0.0, calibration=None, micro=1):
    work = StepWork(
        num_decoding=num_decoding,
        context=CONTEXT,
        num_prefill=num_prefill,
        prefill_context=CONTEXT / 2,
    )
    candidate = replace(candidate, micro_batches=micro)
    costs = calibration or create_calibration()
    return sum(step_parts(SHAPE, costs, candidate, work, peers=peers).values())


# -- against measurement ---------------------------------------------------------------------


@pytest.mark.parametrize(("streams", "tokens_per_s"), [(1, 247), (16, 991), (64, 1505)])
def test_step_of_the_parts_predicts_the_measured_decode_rate(streams, tokens_per_s):
    # 64 streams were not used to calibrate.
    assert streams / step_s(LOCAL, streams) == pytest.approx(tokens_per_s, rel=0.15)


@pytest.mark.parametrize(("streams", "milliseconds"), [(1, EXPERTS[0]), (16, EXPERTS[1])])
def test_parts_of_a_step_are_those_that_were_measured(streams, milliseconds):
    work = StepWork(num_decoding=streams, context=CONTEXT)
    parts = step_parts(SHAPE, create_calibration(), LOCAL, work)
    assert list(parts) == ["layer", "attention", "experts", "exchange", "head", "step", "answer"]
    assert parts["experts"] / SHAPE.num_layers == pytest.approx(milliseconds / 1000)
    assert parts["exchange"] == 0


@pytest.mark.parametrize("tokens", EXPERT_LAYER_MS_BY_TOKENS)
def test_expert_layer_is_linear_in_touched_experts_and_rows(tokens):
    """Two figures of the bench of one expert layer, 1 and 256 tokens, predict the others."""
    touched = {n: SHAPE.num_touched(n) for n in EXPERT_LAYER_MS_BY_TOKENS}
    few, many = EXPERT_LAYER_MS_BY_TOKENS[1], EXPERT_LAYER_MS_BY_TOKENS[256]
    per_row = (many - few * touched[256] / touched[1]) / (1024 - 4 * touched[256] / touched[1])
    per_expert = (few - 4 * per_row) / touched[1]
    predicted = per_expert * touched[tokens] + per_row * 4 * tokens
    assert predicted == pytest.approx(EXPERT_LAYER_MS_BY_TOKENS[tokens], rel=0.15)


# -- spread over shards ----------------------------------------------------------------------


@pytest.mark.parametrize("shards", [2, 4, 8, 32])
@pytest.mark.parametrize("tokens", [1, 4, 16, 64])
def test_spread_is_what_drawing_experts_gives(shards, tokens):
    chance = random.Random(7)
    rounds = 400
    most = messages = sent = 0
    for _ in range(rounds):
        chosen = [chance.sample(range(128), 4) for _ in range(tokens)]
        by_shard = [set() for _ in range(shards)]
        for token in chosen:
            for expert in token:
                by_shard[expert * shards // 128].add(expert)
            sent += len({expert * shards // 128 for expert in token})
        most += max(map(len, by_shard))
        messages += sum(map(bool, by_shard))
    expected = spread(SHAPE, shards, 1, tokens)
    is_sparse = expected.touched < shards
    assert expected.fullest == pytest.approx(most / rounds, rel=0.16 if is_sparse else 0.12)
    assert expected.num_messages == pytest.approx(messages / rounds, rel=0.05)
    assert expected.sent_tokens == pytest.approx(sent / rounds, rel=0.05)


@given(st.floats(0.1, 128), st.integers(1, 128), st.integers(1, 4))
def test_fullest_shard_is_between_an_even_share_and_what_it_holds(touched, shards, replicas):
    most = fullest(touched, 128, shards, replicas)
    assert most >= touched / shards
    assert most <= math.ceil(128 / shards)


@given(st.floats(1, 128), st.integers(2, 128))
def test_replicas_level_and_all_of_them_level_fully(touched, shards):
    by_replicas = [fullest(touched, 128, shards, n) for n in (1, 2, shards)]
    assert by_replicas[1] <= by_replicas[0] * (1 + 1e-9)
    assert by_replicas[2] == pytest.approx(max(touched / shards, 1.0))


# -- laws ------------------------------------------------------------------------------------

shapes = st.sampled_from([LOCAL, NEAR, FAR, replace(FAR, gateways=4, gateway_nodes=4)])
batches = st.floats(1, 64)


@relaxed
@given(shapes, batches, batches, st.floats(0, 512), st.integers(1, 3))
def test_more_work_never_makes_a_step_shorter(candidate, one, other, prefill, micro):
    few, many = sorted((one, other))
    less, more = step_s(candidate, few, micro=micro), step_s(candidate, many, micro=micro)
    assert less <= more * (1 + 1e-9)
    # Not so with micro-batches: beside a large chunk a step splits into fewer.
    assert step_s(candidate, few) <= step_s(candidate, few, prefill) * (1 + 1e-9)


@relaxed
@given(shapes, batches, st.floats(1e7, 1e10), st.floats(1, 10), st.integers(1, 3))
def test_more_bandwidth_never_makes_a_step_longer(candidate, batch, rate, factor, micro):
    slow, fast = (create_calibration(bytes_per_s=r) for r in (rate, rate * factor))
    quicker = step_s(candidate, batch, calibration=fast, micro=micro)
    assert quicker <= step_s(candidate, batch, calibration=slow, micro=micro) * (1 + 1e-9)


@relaxed
@given(batches, st.floats(0, 3), st.floats(0, 3))
def test_more_gateways_at_the_same_shards_never_make_a_step_shorter(batch, one, other):
    shared = replace(FAR, gateways=4, gateway_nodes=4)
    few, many = sorted((one, other))
    assert step_s(shared, batch, peers=few) <= step_s(shared, batch, peers=many) * (1 + 1e-9)


def test_micro_batches_hide_a_slow_link_and_cost_reads_on_a_quick_one():
    slow = create_calibration(bytes_per_s=2e7)
    assert step_s(FAR, 64, calibration=slow, micro=2) < step_s(FAR, 64, calibration=slow)
    quick = create_calibration(bytes_per_s=1e11)
    assert step_s(FAR, 64, calibration=quick, micro=3) > step_s(FAR, 64, calibration=quick)


def test_shards_beyond_the_workers_take_turns():
    two, sixteen = (replace(NEAR, shards=n) for n in (2, 16))
    assert step_s(sixteen, 64) > step_s(two, 64)


def test_shard_on_its_own_has_no_queue_and_a_busy_one_is_shared_in_turns():
    trip = RoundTrip(0.0, 0.0, 0.0, service_s=2.0, peer_service_s=2.0)
    assert queued_service(trip, 1.0, 0.0) == pytest.approx(2.0)
    assert queued_service(trip, 0.0, 3.0) == pytest.approx(8.0)
    assert queued_service(trip, 1e9, 3.0) == pytest.approx(2.0)


def test_missing_link_is_named():
    calibration = replace(create_calibration(), links={})
    with pytest.raises(ValueError, match="no link grpc"):
        step_s(FAR, 1, calibration=calibration)
