"""A calibration follows what gateways measure, part by part."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planning.costs import Linear
from cluster.planning.refresh import MAX_FACTOR, ObservedSteps, refreshed
from cluster.planning.step import StepWork, step_parts
from helpers.planning import LOCAL, NEAR, SHAPE, create_calibration

WORK = StepWork(num_decoding=6.0, context=200.0, num_prefill=20.0, prefill_context=32.0)
FACTOR = st.floats(1 / MAX_FACTOR, MAX_FACTOR)
NUM_STEPS = 50


def timers(parts, **factors):
    """What a gateway would report whose parts take so many times what ``parts`` says."""
    slow = {name: seconds * factors.get(name, 1.0) for name, seconds in parts.items()}
    one = {
        "projections": slow["layer"],
        "attention": slow["attention"],
        "experts and wire": slow["experts"] + slow["exchange"],
        "head": slow["head"],
        "sample": slow["step"],
    }
    one["model"] = sum(s for name, s in one.items() if name != "sample")
    return {name: seconds * NUM_STEPS for name, seconds in one.items()}


def observed(calibration, candidate=LOCAL, **factors):
    parts = step_parts(SHAPE, calibration, candidate, WORK)
    return ObservedSteps(
        candidate=candidate,
        work=WORK,
        num_steps=NUM_STEPS,
        seconds_by_part=timers(parts, **factors),
    )


def whole(calibration, candidate=LOCAL):
    return step_parts(SHAPE, calibration, candidate, WORK)


@given(FACTOR, FACTOR, FACTOR)
def test_full_weight_takes_what_was_seen(experts, head, step):
    costs = create_calibration()
    seen = observed(costs, experts=experts, head=head, step=step)
    before, after = whole(costs), whole(refreshed(SHAPE, costs, seen, 1.0))
    for name, factor in (("experts", experts), ("head", head), ("step", step), ("layer", 1.0)):
        assert after[name] == pytest.approx(before[name] * factor, rel=1e-6)


@given(FACTOR)
def test_no_weight_keeps_what_is_known(factor):
    costs = create_calibration()
    kept = refreshed(SHAPE, costs, observed(costs, experts=factor, head=factor), 0.0)
    assert whole(kept) == pytest.approx(whole(costs))


@given(FACTOR, st.floats(0.2, 0.9))
def test_repeated_observations_are_approached_and_never_overshot(factor, weight):
    truth = create_calibration(head=Linear(4e-4 * factor, 1e-5 * factor))
    costs = create_calibration(head=Linear(4e-4, 1e-5))
    wanted, before = whole(truth)["head"], whole(costs)["head"]
    for _ in range(30):
        costs = refreshed(SHAPE, costs, observed(truth), weight)
        now = whole(costs)["head"]
        assert abs(now - wanted) <= abs(before - wanted) + 1e-12
        before = now
    assert before == pytest.approx(wanted, rel=0.02)


def test_slow_shards_are_learnt_by_what_the_gateway_waits():
    costs = after = create_calibration()
    seen = observed(costs, NEAR, experts=2.0, exchange=2.0)
    for _ in range(8):
        after = refreshed(SHAPE, after, seen, 1.0)
    before_s, after_s = (
        parts["experts"] + parts["exchange"] for parts in (whole(costs, NEAR), whole(after, NEAR))
    )
    assert after_s == pytest.approx(2 * before_s, rel=0.05)
    assert whole(after) == pytest.approx(whole(costs))  # nothing was seen of local experts


def test_time_that_frontends_took_is_not_counted_as_the_kernels():
    costs = replace(create_calibration(), answer=Linear(0.0, 1e-3))
    parts = whole(costs)
    own_s = sum(parts.values()) - parts["answer"]
    stretched = 1 + parts["answer"] / own_s  # timers of a gateway whose cores others had
    factors = dict.fromkeys(parts, stretched)
    after = whole(refreshed(SHAPE, costs, observed(costs, **factors), 1.0))
    assert after == pytest.approx(parts)


def test_one_wild_observation_moves_a_part_by_a_bound():
    costs = create_calibration()
    after = whole(refreshed(SHAPE, costs, observed(costs, head=1e6), 1.0))
    assert after["head"] == pytest.approx(MAX_FACTOR * whole(costs)["head"])


def test_gateway_without_steps_says_nothing():
    costs = create_calibration()
    assert refreshed(SHAPE, costs, replace(observed(costs), num_steps=0), 1.0) is costs


def test_weight_outside_its_range_is_refused():
    costs = create_calibration()
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\], got 1.5"):
        refreshed(SHAPE, costs, observed(costs), 1.5)
