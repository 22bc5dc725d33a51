"""The decision alone: one state in, one decision out. The numbers (#20 …) are users' complaints of
other planners, listed in the reference on serving systems."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.planning import planner
from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import num_nodes
from cluster.planning.decision import Action, DecisionRecord, Measured, outcome_of
from cluster.planning.limits import Constraint
from cluster.planning.load import Demand, Objectives
from cluster.planning.memory import ChangeInFlight, Memory
from cluster.planning.predict import predict as planning_predict
from cluster.planning.scaler_config import ScalerConfig
from galerne.errors import ConfigError
from helpers.planning import SHAPE, create_calibration, create_cluster
from helpers.scaling import (
    CANDIDATES,
    CLUSTER,
    create_autoscaler,
    create_load,
    create_observed,
    create_planner,
    create_state,
    predict,
)

ONE, TWO, THREE, FOUR = CANDIDATES[:4]
COOL = Memory(last_change_s=0.0)


def decide(now_s=1000.0, autoscaler=None, **state):
    return (autoscaler or create_autoscaler()).decide(now_s, create_state(**state))


def test_zero_traffic_scales_down_to_the_least_nodes_20():
    decision = decide(current=FOUR, observed=create_observed(0.0))
    assert (decision.action, decision.target) == (Action.CHANGE, ONE)


def test_zero_traffic_scales_to_zero_after_the_idle_time_and_not_before_20():
    autoscaler = create_autoscaler(idle_to_zero_s=60.0)
    early = decide(autoscaler=autoscaler, observed=create_observed(idle_s=59.0))
    late = decide(autoscaler=autoscaler, observed=create_observed(idle_s=60.0))
    assert early.action is Action.HOLD
    assert (late.action, late.target, late.binding) == (Action.TO_ZERO, None, Constraint.IDLE)


def test_a_first_request_brings_the_cluster_back_from_zero_at_once_20():
    autoscaler = create_autoscaler(idle_to_zero_s=60.0)
    seen = create_observed(0.1, waiting=1)
    decision = decide(1.0, autoscaler, current=None, num_nodes=0, observed=seen, memory=COOL)
    assert (decision.action, decision.target) == (Action.CHANGE, ONE)
    assert decision.is_urgent


def test_what_came_before_zero_does_not_wake_the_cluster_20():
    autoscaler = create_autoscaler(idle_to_zero_s=30.0)
    seen = create_observed(0.5, idle_s=35.0)
    decision = decide(autoscaler=autoscaler, current=None, num_nodes=0, observed=seen)
    assert decision.action is Action.HOLD


def test_pending_nodes_time_out_and_the_next_best_needs_no_new_node_20():
    autoscaler = create_autoscaler(pending_timeout_s=300.0, remember_s=900.0)
    busy = create_observed(35.0)
    started = Memory(change=ChangeInFlight(target=FOUR, started_s=0.0))
    state = create_state(current=ONE, num_nodes=2, pending_nodes=2, observed=busy, memory=started)
    assert autoscaler.decide(299.0, state).binding is Constraint.PENDING
    given_up = autoscaler.decide(300.0, state)
    assert given_up.action is Action.GIVE_UP
    memory = started.after(given_up, autoscaler.config)
    state = replace(state, pending_nodes=0, memory=memory)
    next_best = autoscaler.decide(305.0, state)
    assert (next_best.action, next_best.target) == (Action.CHANGE, TWO)
    refused = {j.candidate: j.reason for j in next_best.ranked}
    assert "did not come" in refused[FOUR]
    again = autoscaler.decide(1300.0, replace(state, current=TWO))
    assert num_nodes(again.target) > 2


def test_a_scale_down_is_refused_if_it_would_be_undone_at_the_upper_load_21():
    near = create_observed(9.0, upper=12.5)  # one gateway carries 11.3
    decision = decide(current=TWO, observed=near)
    assert decision.action is Action.HOLD
    assert decide(current=TWO, observed=create_observed(5.0, upper=6.0)).target == ONE


def test_a_queue_scales_up_at_once_although_the_mean_load_fits_22():
    seen = create_observed(5.0, waiting=120, recent=14.0)
    decision = decide(1.0 + 15.0, current=ONE, observed=seen, memory=Memory(last_change_s=1.0))
    assert predict(ONE, seen.load).is_carried
    assert decision.action is Action.CHANGE
    assert decision.is_urgent
    assert decision.target.gateways >= 2
    assert decision.binding is Constraint.TTFT
    assert "120 requests wait" in decision.reason


def test_a_queue_that_nobody_empties_in_time_does_not_take_all_machines_22():
    seen = create_observed(5.0, waiting=5000)
    decision = decide(current=ONE, observed=seen)
    assert decision.is_urgent
    assert 1 < decision.target.gateways < len(CANDIDATES)
    assert all(Constraint.DRAIN in {b.field for b in j.broken} for j in decision.ranked)


def test_a_queue_that_grows_is_left_at_once_also_where_nothing_is_promised_22():
    autoscaler = create_autoscaler(ttft_p95_s=None)
    seen = create_observed(20.0, waiting=50, is_settled=False)
    decision = decide(autoscaler=autoscaler, current=ONE, observed=seen)
    assert (decision.action, decision.binding) == (Action.CHANGE, Constraint.DRAIN)
    passing = replace(seen, load=create_load(9.0), latest_requests_per_s=9.0)
    assert decide(autoscaler=autoscaler, current=ONE, observed=passing).action is Action.HOLD


@pytest.mark.parametrize("ttft_p95_s", [None, 2.0])
def test_a_queue_is_left_as_soon_as_the_load_has_risen_though_the_mean_is_late_22(ttft_p95_s):
    autoscaler = create_autoscaler(ttft_p95_s=ttft_p95_s)
    risen = create_observed(5.0, upper=40.0, waiting=10, latest=40.0)
    decision = decide(autoscaler=autoscaler, current=ONE, observed=risen)
    assert (decision.action, decision.binding) == (Action.CHANGE, Constraint.CAPACITY)
    assert decision.target.gateways >= 4
    assert "40 req/s come" in decision.reason
    for calm in (replace(risen, latest_requests_per_s=5.0), replace(risen, waiting=0)):
        held = decide(autoscaler=autoscaler, current=ONE, observed=calm)
        assert not held.is_urgent


def test_an_upper_estimate_that_nobody_carries_does_not_leave_what_carries_the_load():
    for ttft_p95_s in (None, 2.0):
        autoscaler = create_autoscaler(CANDIDATES[:2], ttft_p95_s=ttft_p95_s)
        decision = decide(
            autoscaler=autoscaler, current=TWO, observed=create_observed(15.0, upper=40.0)
        )
        assert decision.action is Action.HOLD
        assert decision.ranked[0].candidate == TWO


def test_a_queue_that_empties_in_time_by_itself_changes_nothing_22():
    decision = decide(current=TWO, observed=create_observed(6.0, waiting=60, recent=6.0))
    assert decision.action is Action.HOLD
    assert not decision.are_objectives_held


def test_no_second_change_starts_while_one_is_in_flight_24():
    memory = Memory(change=ChangeInFlight(target=TWO, started_s=990.0))
    decision = decide(observed=create_observed(60.0, waiting=500), memory=memory)
    assert (decision.action, decision.binding) == (Action.HOLD, Constraint.ONE_CHANGE)
    with pytest.raises(ValueError, match="in flight"):
        memory.after(replace(decision, action=Action.CHANGE), ScalerConfig())


def test_a_change_that_saves_too_little_is_not_made():
    decision = decide(
        autoscaler=create_autoscaler(min_gain=0.6), current=TWO, observed=create_observed(1.0)
    )
    assert (decision.action, decision.binding) == (Action.HOLD, Constraint.HYSTERESIS)


def test_a_saving_waits_for_the_cool_down_and_a_broken_objective_does_not():
    saving = decide(60.0, current=FOUR, observed=create_observed(1.0), memory=COOL)
    broken = decide(60.0, current=ONE, observed=create_observed(20.0), memory=COOL)
    assert (saving.action, saving.binding) == (Action.HOLD, Constraint.COOL_DOWN)
    assert (broken.action, broken.binding) == (Action.CHANGE, Constraint.CAPACITY)


def test_a_load_watched_for_a_moment_only_changes_nothing_without_a_queue():
    seen = create_observed(20.0, is_settled=False)
    assert decide(observed=seen).action is Action.HOLD
    assert decide(observed=replace(seen, waiting=200)).action is Action.CHANGE


def counted(monkeypatch):
    """All (candidate, load) that are predicted from now on."""
    asked = []

    def predict_and_note(shape, calibration, candidate, load):
        asked.append((candidate, load))
        return planning_predict(shape, calibration, candidate, load)

    monkeypatch.setattr(planner, "predict", predict_and_note)
    return asked


@pytest.mark.parametrize("waiting", [0, 40])
def test_a_decision_predicts_nothing_twice(monkeypatch, waiting):
    asked = counted(monkeypatch)
    decision = decide(current=TWO, observed=create_observed(9.0, upper=12.5, waiting=waiting))
    assert decision.action is Action.HOLD
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("rate", [0.0, 5.0, 400.0, 3000.0])
def test_a_decision_for_a_thousand_machines_takes_a_few_thousand_predictions(monkeypatch, rate):
    asked = counted(monkeypatch)
    cluster = create_cluster(1000, cores_per_node=8)
    every = planner.Planner(
        shape=SHAPE, calibration=create_calibration(), objectives=Objectives(ttft_p95_s=2.0)
    )
    state = create_state(current=ONE, num_nodes=1000, cluster=cluster)
    autoscaler = Autoscaler(ScalerConfig(), every)
    changed = autoscaler.decide(1000.0, replace(state, observed=create_observed(rate, waiting=900)))
    assert changed.action is Action.CHANGE
    assert len(asked) < 4500
    asked.clear()
    held = replace(state, current=changed.target, observed=create_observed(rate))
    decision = autoscaler.decide(1000.0, held)
    assert len(asked) <= decision.num_candidates + 1000 * (decision.action is Action.CHANGE) + 2


def test_of_a_thousand_machines_a_decision_keeps_few_and_its_outcome_replays_fewer():
    every = planner.Planner(
        shape=SHAPE, calibration=create_calibration(), objectives=Objectives(ttft_p95_s=2.0)
    )
    cluster = create_cluster(1000, cores_per_node=8)
    state = create_state(
        current=ONE, num_nodes=1000, cluster=cluster, observed=create_observed(400.0)
    )
    decision = Autoscaler(ScalerConfig(), every).decide(1000.0, state)
    kept = [judged.candidate for judged in decision.ranked]
    everyone = every.rank(cluster, Demand(decision.decided_for), [ONE])
    assert decision.num_candidates > 500
    assert len(kept) <= 200
    assert kept[:100] == [judged.candidate for judged in everyone[:100]]
    assert {ONE, decision.target} < set(kept)
    assert (
        decision.num_candidates
        == DecisionRecord(decision=decision).to_dict()["decision"]["num_candidates"]
    )
    replayed = []

    def cost(candidate):
        replayed.append(candidate)
        return num_nodes(candidate)

    load = create_load(1.0)
    prediction = every.predict(decision.target, load)
    measured = Measured(
        seconds=60.0,
        load=load,
        requests_per_s=1.0,
        completion_s=prediction.completion_s,
        ttft_p95_s=None,
        inter_token_p95_s=None,
    )
    outcome = outcome_of(decision, measured, prediction, cost)
    assert len(replayed) == len(set(replayed)) <= 70
    assert num_nodes(outcome.best) == 1, "a size that the load then did not ask for"


def test_every_machine_is_a_choice_where_no_candidates_are_given():
    every = replace(create_planner(), only=None)
    autoscaler = Autoscaler(ScalerConfig(), every)
    decision = decide(autoscaler=autoscaler, current=ONE, observed=create_observed(50.0))
    assert decision.action is Action.CHANGE
    assert decision.target == every.rank(CLUSTER, Demand(decision.decided_for))[0].candidate
    assert {j.candidate.gateways for j in decision.ranked} >= {1, 2, 4, 8}


def test_what_fits_no_machine_is_never_chosen_and_is_left_when_machines_shrink():
    small = replace(CLUSTER, gateway_node_bytes=1e6)
    decision = decide(current=ONE, observed=create_observed(20.0), cluster=small)
    assert (decision.action, decision.binding) == (Action.HOLD, Constraint.GATEWAY_MEMORY)
    fewer = create_cluster(2, transports=CLUSTER.transports)
    decision = decide(current=FOUR, observed=create_observed(20.0, upper=20.0), cluster=fewer)
    assert (decision.action, decision.target) == (Action.CHANGE, TWO)


def test_copies_are_counted_by_machine():
    autoscaler = Autoscaler(ScalerConfig(), create_planner(min_copies=2))
    decision = decide(autoscaler=autoscaler, current=TWO, observed=create_observed(0.0))
    assert decision.action is Action.HOLD
    alone = next(j for j in decision.ranked if j.candidate == ONE)
    assert (alone.constraint, alone.is_possible) == (Constraint.COPIES, False)


def test_max_nodes_binds_when_nothing_allowed_carries_the_load():
    autoscaler = create_autoscaler(max_nodes=2)
    decision = decide(autoscaler=autoscaler, current=TWO, observed=create_observed(60.0))
    assert decision.action is Action.HOLD
    assert not decision.are_objectives_held
    assert {j.candidate for j in decision.ranked if j.is_possible} == {ONE, TWO}


def test_a_change_names_the_load_at_which_it_would_choose_otherwise():
    decision = decide(current=ONE, observed=create_observed(15.0, upper=15.0))
    above, below = decision.sensitivity.above, decision.sensitivity.below
    rank = create_planner().rank
    for switch, inside in ((above, 0.98), (below, 1.02)):
        beyond = create_load(switch.requests_per_s)
        within = create_load(switch.requests_per_s * inside)
        assert rank(CLUSTER, Demand(beyond))[0].candidate == switch.to
        assert rank(CLUSTER, Demand(within))[0].candidate == decision.target
    assert "now 15" in decision.sensitivity.text


def test_a_record_is_json_and_text_and_carries_its_outcome():
    decision = decide(current=ONE, observed=create_observed(20.0))
    load = create_load(10.0)
    measured = Measured(
        seconds=60.0,
        load=load,
        requests_per_s=10.0,
        completion_s=predict(decision.target, load).completion_s / 1.1,
        ttft_p95_s=None,
        inter_token_p95_s=0.02,
    )
    cost = {c: 3.0 - (c == ONE) for c in CANDIDATES}
    prediction = predict(decision.target, load)
    outcome = outcome_of(decision, measured, prediction, cost.__getitem__)
    assert outcome.best == ONE
    assert outcome.regret == pytest.approx(0.5)
    assert outcome.error_by_quantity["completion_s"] == pytest.approx(0.1)
    record = DecisionRecord(decision=decision, outcome=outcome)
    plain = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert plain["decision"]["action"] == "change"
    assert plain["decision"]["ranked"][-1]["prediction"]["ttft_p95_s"] is None
    for word in ("because", "binding: requests_per_s", "max req/s", "regret 50%"):
        assert word in record.text


def test_a_setting_that_makes_no_sense_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"autoscaler\.min_gain"):
        create_autoscaler(min_gain=1.0)


rates = st.floats(0, 200)
observations = st.builds(
    lambda rate, more, waiting, idle_s: create_observed(
        rate, upper=rate * more, waiting=waiting, idle_s=idle_s
    ),
    rates,
    st.floats(1, 3),
    st.integers(0, 1000),
    st.floats(0, 1000),
)
currents = st.sampled_from([None, *CANDIDATES])


@settings(max_examples=100, deadline=None)
@given(observed=observations, current=currents, last=st.floats(0, 1000), pending=st.integers(0, 3))
def test_a_decision_is_repeatable_and_always_says_why(observed, current, last, pending):
    autoscaler = create_autoscaler(idle_to_zero_s=100.0)
    change = ChangeInFlight(target=THREE, started_s=last) if pending else None
    memory = Memory(change=change, last_change_s=last)
    state = create_state(current=current, observed=observed, pending_nodes=pending, memory=memory)
    first, second = (autoscaler.decide(1000.0, state) for _ in range(2))
    assert first == second
    assert first.reason
    assert isinstance(first.binding, Constraint)
    if change is not None:
        assert first.action in (Action.HOLD, Action.GIVE_UP)


def walk(autoscaler, current, observed_by_tick, tick_s=10.0):
    """Let the shell's part happen at once; returns (time, decision) of every change."""
    memory, changes = Memory(), []
    for number, observed in enumerate(observed_by_tick):
        now_s = number * tick_s
        state = create_state(current=current, observed=observed, memory=memory)
        decision = autoscaler.decide(now_s, state)
        memory = memory.after(decision, autoscaler.config)
        if decision.action in (Action.CHANGE, Action.TO_ZERO):
            current = decision.target
            memory = memory.change_ended(now_s)
            changes.append((now_s, decision))
    return changes


@settings(max_examples=60, deadline=None)
@given(current=currents, observed=st.lists(observations, min_size=2, max_size=60))
def test_within_the_cool_down_only_a_broken_objective_brings_a_second_change(current, observed):
    autoscaler = create_autoscaler(idle_to_zero_s=100.0)
    changes = walk(autoscaler, current, observed)
    for (before_s, _), (now_s, decision) in itertools.pairwise(changes):
        assert now_s - before_s >= autoscaler.config.settle_s or decision.current is None
        if now_s - before_s < autoscaler.config.cool_down_s:
            assert decision.is_urgent
            assert not decision.are_objectives_held


@settings(max_examples=80, deadline=None)
@given(current=currents, observed=observations)
def test_constant_load_settles_after_one_change_at_most(current, observed):
    # At zero the first request wakes the cluster; idle stays out: it is no constant load.
    observed = replace(observed, idle_s=0.0)
    assert len(walk(create_autoscaler(), current, [observed] * 30)) <= 1
