"""Priorities order what waits; they neither displace what runs nor make anyone wait for ever."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fake_engine import FakeEngine, create_request
from router.engine.request import ResumedChoice
from router.engine.sequence import OVERTAKEN_PER_PRIORITY, SequenceState

priorities = st.integers(-3, 3)


def begun(engine):
    """Requests in the order in which their first tokens were computed."""
    order = {}
    for plan in engine.finish_all():
        order |= {e.sequence.request_id: None for e in plan.entries}
    return list(order)


@settings(max_examples=100, deadline=None)
@given(st.lists(priorities, min_size=1, max_size=12))
def test_what_waits_begins_by_priority_and_then_by_arrival(given_priorities):
    engine = FakeEngine(max_num_seqs=1, num_blocks=60)
    for number, priority in enumerate(given_priorities):
        engine.add(create_request(f"{number}", [1], priority=priority))
    by_turn = sorted(range(len(given_priorities)), key=lambda i: (given_priorities[i], i))
    assert begun(engine) == [str(number) for number in by_turn]


@settings(max_examples=100, deadline=None)
@given(
    arrivals=st.lists(st.tuples(priorities, st.integers(0, 3)), min_size=1, max_size=12),
    num_blocks=st.integers(6, 14),
)
def test_who_runs_is_never_overtaken_whatever_comes_and_however_small_the_pool(
    arrivals, num_blocks
):
    engine = FakeEngine(num_blocks=num_blocks, max_num_seqs=3)
    has_run = set()
    for number, (priority, steps) in enumerate(arrivals):
        engine.add(create_request(f"{number}", range(6), max_tokens=8, priority=priority))
        for _ in range(steps):
            plan = engine.step()
            has_run |= {e.sequence for e in plan.entries}
            waiting = [s for s in engine.scheduler._waiting if s in has_run]
            assert list(engine.scheduler._waiting)[: len(waiting)] == waiting
    engine.finish_all()


def test_a_preempted_sequence_of_low_priority_comes_back_before_new_ones_of_high_priority():
    engine = FakeEngine(num_blocks=5, max_num_seqs=2)
    engine.add(create_request("old", [1] * 7, max_tokens=8))
    (young,) = engine.add(create_request("young", [2] * 8, max_tokens=2, priority=9))
    engine.steps(2)
    assert young.state is SequenceState.PREEMPTED
    engine.add(create_request("new", [3], max_tokens=1, priority=-9))
    assert [s.request_id for s in engine.scheduler._waiting] == ["young", "new"]
    engine.finish_all()


def test_what_ran_at_a_lost_gateway_goes_before_every_priority():
    engine = FakeEngine(max_num_seqs=1)
    engine.add(create_request("new", [1], priority=-9))
    moved = replace(create_request("moved", [1], priority=9), resumed=(ResumedChoice(()),))
    engine.add(moved)
    assert [s.request_id for s in engine.scheduler._waiting] == ["moved", "new"]


def test_one_step_of_priority_passes_by_a_bounded_number_of_earlier_arrivals():
    engine = FakeEngine(max_num_seqs=1, max_waiting=4 * OVERTAKEN_PER_PRIORITY)
    (patient,) = engine.add(create_request("patient", [1], priority=1))
    for number in range(OVERTAKEN_PER_PRIORITY + 1):
        engine.add(create_request(f"{number}", [1]))
    place = [s.request_id for s in engine.scheduler._waiting].index("patient")
    assert place == OVERTAKEN_PER_PRIORITY - 1
    assert patient.turn < engine.scheduler._waiting[place + 1].turn
