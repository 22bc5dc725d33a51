"""The window turns what was seen into a load; nothing seen is no load."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.planning.observed import ObservedWindow
from cluster.simulator.workload import Bursts, Lengths, bursts, phases, poisson
from galerne.histogram import LogHistogram

LENGTHS = Lengths(prompt_mean=100, output_mean=50)


def fed(arrivals, window_s=60.0):
    window = ObservedWindow(window_s)
    for arrival in arrivals:
        window.arrived(arrival.at_s, arrival.prompt_tokens)
        window.ended(arrival.at_s, arrival.output_tokens)
    return window


def test_no_data_is_zero_load_and_never_unknown():
    seen = ObservedWindow(60.0).observe(1000.0)
    assert (seen.load.requests_per_s, seen.upper.requests_per_s) == (0, 0)
    assert (seen.waiting, seen.running, seen.idle_s) == (0, 0, 1000.0)


def test_an_idle_cluster_counts_as_zero_after_the_window_and_keeps_its_lengths():
    window = fed(poisson(10, LENGTHS, 60, seed=1))
    assert window.observe(60.0).load.requests_per_s > 0
    idle = window.observe(121.0)
    assert idle.load.requests_per_s == idle.upper.requests_per_s == 0
    assert (idle.load.prompt_tokens, idle.load.output_tokens) == (100, 50)
    assert idle.idle_s == pytest.approx(61, abs=1)


def test_a_window_that_is_not_full_is_divided_by_its_own_length():
    assert fed(poisson(10, LENGTHS, 12, seed=1)).observe(12.0).load.requests_per_s == (
        pytest.approx(10, rel=0.3)
    )


def test_poisson_has_variation_one_and_bursts_more():
    calm = fed(poisson(20, LENGTHS, 600, seed=2), window_s=600).observe(599.9).load
    rates = Bursts(quiet_requests_per_s=5, burst_requests_per_s=80, quiet_mean_s=20, burst_mean_s=5)
    wild = fed(bursts(rates, LENGTHS, 600, seed=2), window_s=600).observe(599.9).load
    assert calm.arrival_cv2 == pytest.approx(1, abs=0.5)
    assert wild.arrival_cv2 > 3


def test_a_step_of_the_load_is_no_burst():
    window = ObservedWindow(60.0)
    for number in range(900):
        window.arrived(30 + number / 30, 10)
    assert window.observe(60.0).load.arrival_cv2 < 1.5


def test_the_upper_estimate_knows_the_busiest_part_of_the_window():
    window = ObservedWindow(60.0)
    for number in range(200):
        window.arrived(20 + number / 20, 10)  # 20 to 30 s at 20 requests/s
    seen = window.observe(59.9)
    assert seen.load.requests_per_s == pytest.approx(200 / 59.9)
    assert seen.upper.requests_per_s == pytest.approx(20, rel=0.05)
    assert seen.recent_requests_per_s == 0


@pytest.mark.parametrize("rate", [0.2, 1, 10])
def test_the_busiest_part_of_a_steady_load_is_chance(rate):
    for seed in range(20):
        seen = fed(poisson(rate, LENGTHS, 60, seed)).observe(59.9)
        load, span_s = seen.load, 59.9
        sigma = (max(load.arrival_cv2, 1.0) * load.requests_per_s / span_s) ** 0.5
        assert seen.upper.requests_per_s <= load.requests_per_s + 3 * sigma


def test_a_burst_that_is_taken_for_the_load_is_not_taken_for_variation_too():
    window = ObservedWindow(60.0)
    for number in range(200):
        window.arrived(20 + number / 20, 10)
    seen = window.observe(59.9)
    assert seen.load.arrival_cv2 > 1.5
    assert seen.upper.requests_per_s > 2 * seen.load.requests_per_s
    assert seen.upper.arrival_cv2 == 1


def test_a_step_of_a_high_load_is_seen_whole_after_a_few_seconds():
    window = ObservedWindow(60.0)
    for number in range(600):
        window.arrived(54 + number / 100, 10)
    assert window.observe(59.99).upper.requests_per_s == pytest.approx(100, rel=0.05)


def test_a_rise_is_in_the_latest_rate_at_once_and_noise_is_not():
    window = fed(phases([(5, 55), (60, 5)], LENGTHS, seed=2))
    seen = window.observe(59.99)
    assert seen.load.requests_per_s < 15
    assert seen.latest_requests_per_s == pytest.approx(60, rel=0.3)
    for seed in range(20):
        calm = fed(poisson(5, LENGTHS, 60, seed)).observe(59.9)
        assert calm.latest_requests_per_s <= 1.3 * calm.load.requests_per_s


def test_a_queue_that_nobody_reports_any_more_is_forgotten():
    window = ObservedWindow(60.0)
    window.queues(10.0, waiting=5, running=3)
    assert (window.observe(69.0).waiting, window.observe(69.0).running) == (5, 3)
    assert (window.observe(71.0).waiting, window.observe(71.0).running) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), q=st.floats(0, 1))
def test_quantiles_of_a_histogram_are_right_to_two_percent(values, q):
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    index = max(0, -int(-q * len(values) // 1) - 1)
    assert histogram.quantile(q) == pytest.approx(sorted(values)[index], rel=0.021)
    assert histogram.mean == pytest.approx(sum(values) / len(values))
