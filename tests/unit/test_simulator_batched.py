"""Many steps at once give what the real scheduler gives step by step, within 10 %."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.simulator.run import Setup, simulate
from cluster.simulator.workload import Arrival, Lengths, poisson
from helpers.scaling import CANDIDATES, KEY_S, STEP, model_of

QUANTILES = (0.5, 0.95)


def both(arrivals, model=model_of, candidate=CANDIDATES[1]):
    arrivals = list(arrivals)
    return [
        simulate(arrivals, Setup(model_of=model, start=candidate, is_exact=is_exact))
        for is_exact in (True, False)
    ]


def assert_close(exact, batched, rel=0.1):
    for name in ("ttft_s", "inter_token_s", "completion_s"):
        old, new = getattr(exact.latencies, name), getattr(batched.latencies, name)
        assert new.count == old.count
        assert new.mean == pytest.approx(old.mean, rel=rel)
        for q in QUANTILES:
            assert new.quantile(q) == pytest.approx(old.quantile(q), rel=rel)
    assert batched.requests_per_s == pytest.approx(exact.requests_per_s, rel=rel)


@pytest.mark.parametrize("rate", [2, 15, 21, 30])
def test_batched_steps_agree_with_the_real_scheduler_from_idle_to_overload(rate):
    lengths = Lengths(prompt_mean=200, output_mean=40, cv2=0.5)
    assert_close(*both(poisson(rate, lengths, 40, seed=rate)))


def test_batched_steps_agree_when_the_cache_is_nearly_full():
    def tight(candidate):
        return model_of(candidate, kv_tokens=4096)

    lengths = Lengths(prompt_mean=150, output_mean=40, cv2=0.3)
    assert_close(*both(poisson(15, lengths, 40, seed=5), tight))


def test_batched_steps_agree_with_long_prompts_in_chunks_and_costs_per_request():
    def chunked(candidate):
        return model_of(candidate, max_chunk_tokens=64, request_s=0.004, frontend_s=0.01)

    lengths = Lengths(prompt_mean=900, output_mean=20, cv2=0.2)
    assert_close(*both(poisson(1.5, lengths, 60, seed=6), chunked))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rate=st.floats(1, 40),
    seqs=st.integers(1, 16),
    budget=st.integers(16, 256),
    chunk=st.integers(1, 256),
)
def test_batched_steps_agree_under_any_limits(seed, rate, seqs, budget, chunk):
    def model(candidate):
        return model_of(
            candidate, max_num_seqs=seqs, max_batched_tokens=budget, max_chunk_tokens=chunk
        )

    lengths = Lengths(prompt_mean=30, output_mean=10, cv2=1.0)
    exact, batched = both(poisson(rate, lengths, 5, seed), model, CANDIDATES[0])
    assert batched.latencies.completion_s.count == exact.latencies.completion_s.count
    if exact.latencies.completion_s.count:
        assert batched.latencies.completion_s.mean == pytest.approx(
            exact.latencies.completion_s.mean, rel=0.02
        )


def test_one_request_alone_takes_the_times_of_its_steps():
    (exact, batched) = both([Arrival(1.0, 100, 11)])
    prefill_s = STEP.seconds(100) + KEY_S * sum(range(1, 101))
    expected = prefill_s + sum(STEP.seconds(1) + KEY_S * (101 + i) for i in range(10))
    for result in (exact, batched):
        assert result.latencies.completion_s.mean == pytest.approx(expected)
        assert result.latencies.ttft_s.mean == pytest.approx(prefill_s)
