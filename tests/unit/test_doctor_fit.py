"""Measured points become the coefficients that made them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.fit import (
    MIN_COEFFICIENT,
    ExpertPoint,
    Point,
    fit,
    fit_experts,
    fit_line,
    relative_drift,
)
from cluster.doctor.link_fit import LinkPoint, fit_link

COST = st.floats(1e-8, 1e-3)


@given(COST, COST)
def test_line_through_exact_points_is_found(fixed_s, per_unit_s):
    points = [Point(n, fixed_s + per_unit_s * n) for n in (1, 4, 16, 64, 1024)]
    found = fit_line(points)
    assert found.line.fixed_s == pytest.approx(fixed_s, rel=1e-3, abs=1e-10)
    assert found.line.per_unit_s == pytest.approx(per_unit_s, rel=1e-3, abs=1e-10)
    assert found.residuals.worst < 1e-3


def test_cost_of_experts_is_found():
    work = [(4, 4), (15, 16), (51, 64), (111, 256), (128, 4096)]
    points = [ExpertPoint(t, r, 5e-6 + 3e-6 * t + 4e-7 * r) for t, r in work]
    cost = fit_experts(points).cost
    found = (cost.fixed_s, cost.per_expert_s, cost.per_row_s)
    assert found == pytest.approx((5e-6, 3e-6, 4e-7), rel=1e-3)


def test_noise_makes_no_cost_negative():
    points = [Point(1, 1e-3), Point(4, 0.9e-3), Point(16, 0.8e-3)]  # falls
    line = fit_line(points).line
    assert line.per_unit_s == MIN_COEFFICIENT
    assert line.fixed_s == pytest.approx(0.88e-3, rel=0.05)


def test_fit_is_the_best_of_all_that_are_not_negative():
    rng = np.random.default_rng(0)
    features, seconds = rng.random((20, 3)), rng.random(20) + 0.1
    best = _error(fit(features, seconds).coefficients, features, seconds)
    tries = rng.random((5000, 3)) * 1.5
    assert best <= min(_error(c, features, seconds) for c in tries) + 1e-9


def _error(coefficients, features, seconds):
    return float(((features @ coefficients / seconds - 1) ** 2).sum())


@pytest.mark.parametrize("seconds", [[0.0], [-1.0], [float("nan")], [1.0, 2.0]])
def test_times_that_cannot_be_are_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        fit(np.ones((1, 1)), np.array(seconds))


def test_drift_is_the_median_of_the_relative_differences():
    assert relative_drift([1.0, 2.0, 4.0], [1.1, 2.0, 8.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="first"):
        relative_drift([], [])


def test_costs_of_a_link_are_found():
    gateway_s, shard_s, latency_s, byte_s = 8e-6, 5e-6, 2e-5, 1 / 2e9
    points = [
        LinkPoint(
            num_messages=shards,
            num_bytes=tokens * 4096.0 * shards,
            wall_s=1e-4 + latency_s + shard_s + shards * (gateway_s + tokens * 4096 * byte_s),
            compute_s=1e-4,
            shard_s=shard_s,
        )
        for shards in (1, 2)
        for tokens in (1, 16, 256)
    ]
    costs = fit_link(points).costs
    found = (costs.gateway_s, costs.shard_s, costs.latency_s, 1 / costs.bytes_per_s)
    assert found == pytest.approx((gateway_s, shard_s, latency_s, byte_s), rel=0.01)
