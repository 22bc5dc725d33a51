"""Measured points become the coefficients that made them."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.fit import (
    ExpertPoint,
    Point,
    fit,
    fit_curve,
    fit_experts,
    relative_drift,
    rising,
)
from cluster.doctor.layer_fit import LayerPoint, fit_layer
from cluster.doctor.link_fit import LinkPoint, fit_link
from cluster.doctor.measure_engine import CheckPoint
from cluster.doctor.measure_serving import Wave, fit_serving
from cluster.doctor.steps import StepShape

COST = st.floats(1e-8, 1e-3)


def test_curve_goes_through_points_that_rise():
    points = [Point(n, 1e-4 * n**0.7) for n in (1, 4, 16, 64, 1024)]
    found = fit_curve(points)
    assert [found.curve.seconds(p.units) for p in points] == pytest.approx([s for _, s in points])
    assert found.residuals.worst < 1e-9


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_levels_never_fall_and_keep_the_mean(values):
    found = rising(np.array(values), np.ones(len(values)))
    assert (np.diff(found) >= -1e-15).all()
    assert found.mean() == pytest.approx(np.mean(values))
    assert rising(found, np.ones(len(values))) == pytest.approx(found)


def test_layer_and_attention_of_both_kinds_are_told_apart():
    own = {1: 3e-5, 16: 6e-5, 64: 19e-5, 256: 58e-5}
    shapes = [StepShape(n, 1, c) for n in (1, 16, 64) for c in (64, 512, 2048)]
    shapes += [StepShape(1, n, c) for n in (64, 256) for c in (0, 2048)]
    each = {True: 8e-9, False: 22e-9}
    points = [LayerPoint(s, own[s.num_tokens] + each[s.num_new > 1] * s.num_pairs) for s in shapes]
    found = fit_layer(points)
    assert found.attention_s == pytest.approx(22e-9, rel=1e-3)
    assert found.chunk_attention_s == pytest.approx(8e-9, rel=1e-3)
    assert [found.layer.seconds(n) for n in own] == pytest.approx(list(own.values()), rel=1e-3)
    assert found.residuals.worst < 1e-3


def test_cost_of_experts_is_found():
    work = [(4, 4), (15, 16), (51, 64), (111, 256), (128, 4096)]
    points = [ExpertPoint(t, r, 5e-6 + 3e-6 * t + 4e-7 * r) for t, r in work]
    cost = fit_experts(points).cost
    found = (cost.fixed_s, cost.per_expert_s, cost.per_row_s)
    assert found == pytest.approx((5e-6, 3e-6, 4e-7), rel=1e-3)


def test_noise_makes_no_curve_fall():
    curve = fit_curve([Point(1, 1e-3), Point(4, 0.9e-3), Point(16, 0.8e-3)]).curve
    assert curve.seconds(1) == curve.seconds(16) == pytest.approx(0.9e-3)


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


def test_what_serving_adds_is_told_by_steps_and_requests():
    counts = (1, 4, 16)
    alone = [CheckPoint(n, 10.0, 1e-3 + 1e-4 * n) for n in counts]
    waves = [
        Wave(n, 5e-3 + 2e-3 * n + a.seconds, gap_s, 0.8 * gap_s, 2 * gap_s)
        for a, n in zip(alone, counts, strict=True)
        for gap_s in [a.seconds + 3e-4 * n]
    ]
    found = fit_serving(waves, alone, [8.1e-3] * 19 + [12.15e-3], 0.0)
    assert astuple(found.scatter) == pytest.approx((0.8, 2.0, 1.5))
    assert [found.answer.seconds(n) for n in (1, 4, 10, 32)] == pytest.approx(
        [3e-4 * n for n in (1, 4, 10, 32)]
    )
    assert (found.request_s, found.frontend_s) == pytest.approx((2e-3, 5e-3))
