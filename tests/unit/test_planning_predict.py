"""What a candidate gives under a load: laws of queues, and what must not happen."""

import math
import random
from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.planning.load import Guessing
from cluster.planning.occupancy import occupancy
from cluster.planning.predict import predict
from cluster.planning.queueing import Wait, admission_wait, fixed_point, prefill_wait
from cluster.planning.steady import GatewayModel
from helpers.placements import relaxed
from helpers.planning import FAR, LOCAL, NEAR, SHAPE, create_calibration, create_load

CALIBRATION = create_calibration()
TIMES = ("ttft_p50_s", "ttft_p95_s", "inter_token_p50_s", "inter_token_p95_s", "completion_s")
SHARED = replace(FAR, gateways=4, gateway_nodes=4, micro_batches=2)


def predicted(candidate=LOCAL, rate=5.0, **load):
    return predict(SHAPE, CALIBRATION, candidate, create_load(rate, **load))


shapes = st.sampled_from([LOCAL, NEAR, FAR, SHARED, replace(LOCAL, max_num_seqs=4)])
mixes = st.fixed_dictionaries(
    {
        "prompt_tokens": st.floats(0, 4000),
        "output_tokens": st.floats(1, 1000),
        "arrival_cv2": st.floats(0, 20),
    }
)
loads = st.floats(0, 1.2)  # of what the candidate carries


@relaxed
@given(shapes, mixes, loads, loads)
def test_more_requests_never_make_anything_quicker(candidate, mix, one, other):
    most = predicted(candidate, 0, **mix).max_requests_per_s
    few, many = (predicted(candidate, most * part, **mix) for part in sorted((one, other)))
    for name in (*TIMES, "running", "utilisation"):
        assert getattr(few, name) <= getattr(many, name) * (1 + 1e-5), name


guessings = st.builds(
    Guessing, rows=st.floats(1, 5), tokens=st.floats(1, 5), seconds=st.floats(0, 0.01)
)


@relaxed
@given(shapes, mixes, st.floats(0.01, 0.99), st.floats(0, 2), guessings)
def test_steady_state_satisfies_littles_law(candidate, mix, part, image_s, guessing):
    load = create_load(**mix, image_s=image_s, guessing=guessing)
    model = GatewayModel(SHAPE, CALIBRATION, candidate, load)
    capacity = model.capacity()
    rate = part * capacity.requests_per_s
    state = model.steady(rate, capacity)
    assert state.running == pytest.approx(rate * model.steps * state.step_s)
    mean = state.decode_s + state.chunk_fraction * (state.chunk_s - state.decode_s)
    begun = rate * state.step_s  # requests a step; they lengthen those with their chunks
    if not state.chunk_fraction:
        mean += begun * model.begun_s
    else:
        extra_s = begun / state.chunk_fraction * model.begun_s
        assert state.chunk_s >= state.decode_s + extra_s * (1 - 1e-5)
    assert state.step_s == pytest.approx(mean, rel=1e-5)
    assert state.running <= candidate.max_num_seqs * (1 + 1e-6)
    # Time-shared prefill: what arrives is computed.
    tokens = state.running * (guessing.rows + model.prompt / model.steps)
    assert tokens <= candidate.max_batched_tokens * (1 + 1e-6)


@relaxed
@given(shapes, mixes)
def test_capacity_is_where_carrying_ends(candidate, mix):
    most = predicted(candidate, 0, **mix).max_requests_per_s
    below, above = (predicted(candidate, most * part, **mix) for part in (0.999, 1.001))
    assert below.is_carried
    assert math.isfinite(below.completion_s)
    assert not above.is_carried
    assert all(math.isinf(getattr(above, name)) for name in TIMES)
    assert above.requests_per_s == pytest.approx(most)


@relaxed
@given(shapes, mixes, loads)
def test_parts_sum_up_and_percentiles_are_in_order(candidate, mix, part):
    most = predicted(candidate, 0, **mix).max_requests_per_s
    given_load = predicted(candidate, most * part, **mix)
    assert sum(given_load.parts_s.values()) == pytest.approx(given_load.step_s)
    assert given_load.ttft_p50_s <= given_load.ttft_p95_s
    assert given_load.inter_token_p50_s <= given_load.inter_token_p95_s * (1 + 1e-9)


@relaxed
@given(shapes, mixes, st.floats(0, 0.9), st.floats(0, 2), st.floats(0, 2))
def test_images_never_make_anything_quicker(candidate, mix, part, one, other):
    most = predicted(candidate, 0, **mix, image_s=max(one, other)).max_requests_per_s
    few, many = (
        predicted(candidate, most * part, **mix, image_s=seconds)
        for seconds in sorted((one, other))
    )
    assert few.max_requests_per_s >= many.max_requests_per_s
    assert many.completion_s >= (few.completion_s + abs(one - other)) * (1 - 1e-5)
    for name in TIMES:
        assert getattr(few, name) <= getattr(many, name) * (1 + 1e-5), name


@relaxed
@given(shapes, mixes, loads, guessings)
def test_guesses_are_made_only_where_they_pay(candidate, mix, part, guessing):
    rate = part * predicted(candidate, 0, **mix).max_requests_per_s
    plain = predicted(candidate, rate, **mix)
    guessed = predicted(candidate, rate, **mix, guessing=guessing)
    assert guessed.completion_s <= plain.completion_s
    if not guessed.is_carried:
        assert guessed.max_requests_per_s >= plain.max_requests_per_s
    for name in ("rows", "seconds"):  # that cost more and give as much
        worse = predicted(candidate, rate, **mix, guessing=replace(guessing, **{name: 6.0}))
        assert guessed.completion_s <= worse.completion_s * (1 + 1e-5)


def whole_seats(candidate, mix, guessing):
    load = create_load(**mix, guessing=guessing)
    return int(GatewayModel(SHAPE, CALIBRATION, candidate, load).capacity().slots)


@relaxed
@given(shapes, mixes, loads, guessings, st.floats(1, 5))
def test_more_right_guesses_never_make_an_answer_later(candidate, mix, part, guessing, tokens):
    assume(tokens > guessing.tokens)
    rate = part * predicted(candidate, 0, **mix).max_requests_per_s
    both = (guessing, replace(guessing, tokens=tokens))
    # Answers of fewer steps leave room for fewer prompts beside them; seats are counted whole.
    assume(len({whole_seats(candidate, mix, given) for given in both}) == 1)
    few, many = (predicted(candidate, rate, **mix, guessing=given) for given in both)
    assert many.completion_s <= few.completion_s * (1 + 1e-5)


def test_guesses_shorten_answers_of_few_by_what_they_save_in_steps():
    free = Guessing(rows=1.0, tokens=2.0)
    plain, guessed = predicted(rate=0), predicted(rate=0, guessing=free)
    assert guessed.step_s == plain.step_s
    assert guessed.inter_token_p50_s == pytest.approx(plain.inter_token_p50_s / 2)
    assert plain.completion_s - guessed.completion_s == pytest.approx(63 / 2 * plain.step_s)


@relaxed
@given(shapes, mixes, st.floats(0, 0.9), st.floats(0, 20))
def test_burstier_arrivals_never_shorten_the_first_token(candidate, mix, part, more):
    assume(more > mix["arrival_cv2"])
    most = predicted(candidate, 0, **mix).max_requests_per_s
    calm = predicted(candidate, most * part, **mix)
    wild = predicted(candidate, most * part, **{**mix, "arrival_cv2": more})
    assert calm.ttft_p95_s <= wild.ttft_p95_s


def test_without_load_the_times_are_those_of_a_lone_request():
    idle = predicted(rate=0)
    assert idle.utilisation == 0
    assert idle.running == 0
    assert idle.ttft_p50_s == idle.ttft_p95_s
    assert idle.inter_token_p50_s == idle.inter_token_p95_s == idle.step_s
    assert 1 / idle.step_s == pytest.approx(247, rel=0.15)
    assert idle.completion_s == pytest.approx(idle.ttft_p50_s + 63 * idle.step_s)
    nobody = predicted(rate=0, prompt_tokens=0, output_tokens=0)
    assert all(math.isfinite(getattr(nobody, name)) for name in TIMES)


def test_all_fields_are_numbers_or_parts():
    prediction = predicted()
    for field in fields(prediction):
        value = getattr(prediction, field.name)
        assert isinstance(value, dict) or not math.isnan(value)


def test_chunk_is_noticed_in_the_p95_once_more_than_a_twentieth_of_steps_carry_one():
    rare, often = (predicted(rate=rate, prompt_tokens=512, output_tokens=8) for rate in (0.05, 5.0))
    assert rare.inter_token_p95_s < 1.5 * rare.step_s
    assert often.inter_token_p95_s > 2 * often.step_s


def test_memory_is_weights_and_cache():
    local, sharded = predicted(LOCAL, 0), predicted(replace(FAR, replicas=2), 0)
    cache = 128 * SHAPE.kv_bytes_per_token
    assert local.gateway_bytes == pytest.approx(SHAPE.dense_bytes + SHAPE.routed_bytes + cache)
    assert sharded.gateway_bytes == pytest.approx(SHAPE.dense_bytes + cache)
    assert sharded.shard_bytes == pytest.approx(SHAPE.routed_bytes * 2 / 8)
    assert local.shard_bytes == 0


# -- queues ----------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 4])
def test_admission_wait_is_what_a_simulated_queue_shows(servers):
    chance = random.Random(3)
    rate, service_s = 0.8 * servers, 1.0
    free, now, waits = [0.0] * servers, 0.0, []
    for _ in range(60_000):
        now += chance.expovariate(rate)
        free.sort()
        start = max(now, free[0])
        waits.append(start - now)
        free[0] = start + chance.expovariate(1 / service_s)
    waits.sort()
    taken = occupancy(rate, 1.0, servers, lambda _: service_s).waits
    wait = admission_wait(rate, servers / service_s, taken, variation=1.0)
    assert wait.mean_s == pytest.approx(sum(waits) / len(waits), rel=0.12)
    assert wait.percentile_s(0.95) == pytest.approx(waits[int(0.95 * len(waits))], rel=0.12)


def test_wait_that_few_have_is_in_no_percentile_below():
    assert Wait(0.04, 9.0).percentile_s(0.95) == 0
    assert Wait(0.5, 9.0).percentile_s(0.95) == pytest.approx(9 * math.log(10))
    assert prefill_wait(0.0, 1.0, variation=1.0).mean_s == 0
    assert prefill_wait(0.5, 1.0, variation=1.0).mean_s == pytest.approx(1.0)


@given(st.floats(0.001, 10), st.floats(0, 0.99))
def test_fixed_point_of_a_line_is_found(start, slope):
    expected = start / (1 - slope)
    found = fixed_point(lambda x: start + slope * x, start, 2 * expected)
    assert found == pytest.approx(expected, rel=1e-4)
