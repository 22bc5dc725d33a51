"""What is kept after a burst, and what is remembered of it. Numbers as in ``test_autoscaler``."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.planning import planner
from cluster.planning.decision import Action
from cluster.planning.memory import Memory
from cluster.planning.predict import predict as planning_predict
from cluster.planning.scaler_config import ScalerConfig
from helpers.scaling import CANDIDATES, create_autoscaler, create_observed, create_state

ONE, _, THREE, FOUR = CANDIDATES[:4]


def decide(now_s, autoscaler, **state):
    return autoscaler.decide(now_s, create_state(**state))


def test_what_carries_most_of_a_burst_is_kept_until_it_is_long_past_21(monkeypatch):
    def slower_by_gateways(shape, calibration, candidate, load):
        found = planning_predict(shape, calibration, candidate, load)
        return replace(found, completion_s=found.completion_s * candidate.gateways)

    monkeypatch.setattr(planner, "predict", slower_by_gateways)
    autoscaler, quiet = create_autoscaler(node_weight=0.0), create_observed(0.5)
    burst = decide(1000.0, autoscaler, current=FOUR, observed=create_observed(40.0))
    memory = Memory().after(replace(burst, action=Action.HOLD), autoscaler.config)
    last_s = 1000.0 + autoscaler.config.hold_s
    for now_s in (1005.0, last_s):
        first = decide(now_s, autoscaler, current=FOUR, observed=quiet, memory=memory)
        assert (first.action, first.target) == (Action.CHANGE, THREE)  # it carries 34 of the 40
        held = decide(now_s, autoscaler, current=THREE, observed=quiet, memory=memory)
        assert held.action is Action.HOLD
        memory = memory.after(held, autoscaler.config)
    assert "40 req/s of 600 s ago" in held.reason
    late = decide(last_s + 5.0, autoscaler, current=THREE, observed=quiet, memory=memory)
    memory = memory.after(replace(late, action=Action.HOLD), autoscaler.config)
    assert memory.busiest.requests_per_s == 0.5
    late = decide(last_s + 10.0, autoscaler, current=THREE, observed=quiet, memory=memory)
    assert (late.action, late.target) == (Action.CHANGE, ONE)


def test_machines_that_weigh_something_are_not_kept_for_a_burst_that_is_over_20():
    autoscaler, quiet = create_autoscaler(), create_observed(0.5)
    burst = autoscaler.decide(1000.0, create_state(current=FOUR, observed=create_observed(40.0)))
    memory = Memory().after(burst, autoscaler.config)
    assert decide(1005.0, autoscaler, current=FOUR, observed=quiet, memory=memory).target == ONE


def test_more_machines_that_carry_less_are_not_taken_after_a_burst(monkeypatch):
    def quicker_but_less(shape, calibration, candidate, load):
        found = planning_predict(shape, calibration, candidate, load)
        if candidate.gateways == 1:
            return replace(found, max_requests_per_s=20.0)
        return replace(found, max_requests_per_s=5.0, completion_s=found.completion_s / 10)

    monkeypatch.setattr(planner, "predict", quicker_but_less)
    autoscaler, quiet = create_autoscaler(node_weight=1.0), create_observed(0.5)
    before = decide(1000.0, autoscaler, current=ONE, observed=quiet)
    assert (before.action, before.target.gateways > 1) == (Action.CHANGE, True)
    burst = decide(1000.0, autoscaler, current=ONE, observed=create_observed(10.0))
    memory = Memory().after(replace(burst, action=Action.HOLD), autoscaler.config)
    after = decide(1005.0, autoscaler, current=ONE, observed=quiet, memory=memory)
    assert after.action is Action.HOLD


@given(st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(0.0, 9.0)), min_size=1, max_size=30))
def test_the_busiest_load_is_that_of_the_last_while(seen):
    config, memory, now_s, everyone = ScalerConfig(hold_s=100.0), Memory(), 0.0, []
    hold = decide(0.0, create_autoscaler(), current=ONE, observed=create_observed(0.5))
    for pause_s, rate in seen:
        now_s += pause_s
        everyone.append((now_s, rate))
        observed = replace(hold.observed, latest_requests_per_s=rate)
        memory = memory.after(
            replace(hold, at_s=now_s, action=Action.HOLD, observed=observed), config
        )
        assert memory.busiest.requests_per_s == max(r for t, r in everyone if t >= now_s - 100.0)
