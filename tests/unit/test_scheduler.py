import dataclasses
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import ConfigError, InvalidRequestError, OverloadedError
from helpers.fake_engine import (
    BLOCK,
    CONTEXT,
    FakeEngine,
    create_image,
    create_request,
    expected_tokens,
    guesser,
)
from router.engine.block_pool import BlockPool
from router.engine.request import (
    FinishReason,
    ResumedChoice,
)
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import ALLOWED, SequenceState

request_templates = st.builds(
    create_request,
    prompt=st.builds(lambda m, tail: [1, 2, 3] * m + [tail], st.integers(0, 5), st.integers(0, 2)),
    images=st.lists(st.builds(create_image, st.integers(0, 6), st.integers(0, 1)), max_size=1),
    n=st.integers(1, 3),
    max_tokens=st.integers(1, 12),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
)
adds = st.tuples(st.just("add"), request_templates)
mild_actions = st.lists(adds | st.just(("step", 0)), min_size=4, max_size=20)
verbs = st.sampled_from(["step", "step", "abort", "preempt", "fail"])
rough_actions = st.lists(adds | st.tuples(verbs, st.integers(0, 9)), min_size=4, max_size=24)
engines = st.builds(
    FakeEngine,
    num_blocks=st.integers(5, 14),
    max_num_seqs=st.integers(1, 5),
    max_batched_tokens=st.integers(5, 24),
    max_chunk_tokens=st.integers(1, 12),
    block_size=st.integers(1, 5),
    max_waiting=st.integers(3, 12),
    enable_prefix_cache=st.sampled_from([True, True, False]),
)


def act(engine, action, argument, request_id):
    if action == "add":
        num_waiting = engine.scheduler.num_waiting
        try:
            engine.add(dataclasses.replace(argument, request_id=request_id))
        except (InvalidRequestError, OverloadedError):
            assert engine.scheduler.num_waiting == num_waiting
    elif action == "abort" and engine.sequences:
        chosen = engine.sequences[argument % len(engine.sequences)]
        engine.scheduler.abort(chosen.request_id, chosen.choice if argument % 2 else None)
    elif action == "preempt" and engine.sequences:
        engine.preempt(engine.sequences[argument % len(engine.sequences)].request_id)
    elif action == "fail":
        engine.fail_step()
    else:
        engine.step()


def simulate(engine, actions):
    for number, (action, argument) in enumerate(actions):
        act(engine, action, argument, f"r{number}")
    engine.finish_all()


@settings(max_examples=150, deadline=None)
@given(
    engine=engines,
    actions=rough_actions,
    seed=st.integers(0, 99),
    most=st.integers(1, 5),
    wrong=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_guesses_leave_every_request_its_tokens(engine, actions, seed, most, wrong):
    engine.guess = guesser(seed, most, wrong)
    simulate(engine, actions)


@settings(max_examples=200, deadline=None)
@given(engine=engines, actions=mild_actions)
def test_every_accepted_request_ends_once_with_its_tokens_in_any_pool(engine, actions):
    simulate(engine, actions)


@settings(max_examples=200, deadline=None)
@given(engine=engines, actions=rough_actions)
def test_aborts_preemptions_and_failed_steps_change_no_tokens(engine, actions):
    simulate(engine, actions)


def test_decode_runs_in_every_step_of_an_earlier_prefill_that_wants_the_whole_budget():
    limits = {"max_num_seqs": 4, "max_batched_tokens": 8, "max_chunk_tokens": 8}
    engine = FakeEngine(**limits, enable_prefix_cache=False)
    engine.add(create_request("long", prompt=range(30)))
    engine.add(create_request("short", prompt=[1], max_tokens=9))
    engine.steps(4)
    engine.preempt("long")
    plan = engine.steps(2)
    entries = [(e.sequence.request_id, e.num_tokens) for e in plan.entries]
    assert entries == [("long", 7), ("short", 1)]


def test_small_pool_preempts_the_latest_arrival_and_changes_no_tokens():
    engine = FakeEngine(num_blocks=7, max_batched_tokens=64)
    for i in range(3):
        engine.add(create_request(f"r{i}", prompt=[i] * 7, max_tokens=12))
    preempted = [s.request_id for plan in engine.finish_all() for s in plan.preempted]
    assert preempted[0] == "r2"
    assert "r0" not in preempted
    assert engine.scheduler.num_preemptions == len(preempted)


def test_latest_arrival_preempts_itself_and_returns_before_newer_ones():
    engine = FakeEngine(num_blocks=5, max_num_seqs=2)
    engine.add(create_request("old", prompt=[1] * 7, max_tokens=8))
    engine.add(create_request("young", prompt=[2] * 8, max_tokens=2))
    engine.add(create_request("new", prompt=[3], max_tokens=1))
    assert [s.request_id for s in engine.steps(2).preempted] == ["young"]
    engine.finish_all()


def test_preempted_sequence_finds_its_own_blocks_again():
    engine = FakeEngine()
    (sequence,) = engine.add(create_request(prompt=range(10), max_tokens=8))
    engine.steps(4)
    assert engine.preempt("r") == [sequence]
    (entry,) = engine.step().entries
    assert (entry.start, entry.num_tokens) == (12, 2)
    engine.finish_all()


@pytest.mark.parametrize(
    ("second", "num_cached"),
    [({}, 8), ({"prompt_logprobs": 0}, 0), ({"images": [create_image(0, 1)]}, 0)],
)
def test_equal_prompt_is_reused_but_for_its_end_prompt_logprobs_and_other_images(
    second, num_cached
):
    engine = FakeEngine()
    engine.add(create_request("first", prompt=range(12), images=[create_image(0, 0)]))
    engine.finish_all()
    second = {"images": [create_image(0, 0)], **second}
    (sequence,) = engine.add(create_request("second", prompt=range(12), **second))
    (entry,) = engine.step().entries
    assert (entry.start, entry.num_tokens, entry.samples) == (num_cached, 12 - num_cached, True)
    assert sequence.num_cached == engine.scheduler.prefix_hit_tokens == num_cached


def test_choices_that_wait_for_their_prompt_hold_nobody_up_and_lose_no_place():
    for max_num_seqs, running in ((3, ["long", "short"]), (2, ["long"])):
        engine = FakeEngine(max_num_seqs=max_num_seqs, max_batched_tokens=12, max_chunk_tokens=8)
        engine.add(create_request("long", range(60), n=2, max_tokens=2))
        engine.add(create_request("short", range(200, 204), max_tokens=2))
        plan = engine.step()
        assert [e.sequence.request_id for e in plan.entries] == running
        engine.finish_all()
        assert [s.num_cached for s in engine.sequences] == [0, 56, 0]


def test_choices_share_the_blocks_of_their_prompt():
    engine = FakeEngine(max_chunk_tokens=8)
    choices = engine.add(create_request(prompt=range(20), n=3, max_tokens=6))
    engine.steps(4)
    assert [c.num_cached for c in choices] == [0, 16, 16]
    assert engine.scheduler.prefix_query_tokens == 60
    assert len({tuple(c.blocks[:4]) for c in choices}) == 1
    assert len({c.blocks[4] for c in choices}) == 3
    engine.finish_all()


def test_prompts_admitted_together_do_not_promise_the_same_blocks():
    engine = FakeEngine(num_blocks=9, max_chunk_tokens=4)
    engine.add(create_request("first", prompt=[1] * 20, max_tokens=1))
    engine.add(create_request("second", prompt=[2] * 16, max_tokens=1))
    assert [e.sequence.request_id for e in engine.step().entries] == ["first"]
    engine.finish_all()
    assert engine.scheduler.num_preemptions == 0


def test_full_queue_refuses_a_request_whole_and_says_when_to_retry():
    scheduler = FakeEngine(max_waiting=3, retry_after_s=2.0).scheduler
    scheduler.add(create_request("a", n=2))
    with pytest.raises(OverloadedError) as refusal:
        scheduler.add(create_request("b", n=2))
    assert (refusal.value.limit, refusal.value.retry_after_s) == (3, 2.0)
    assert scheduler.num_waiting == 2
    scheduler.add(create_request("b"))


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("prompt_token_ids", create_request(prompt=[])),
        ("prompt_token_ids", create_request(prompt=range(100))),
        ("prompt_token_ids", create_request(prompt=range(13))),
        ("max_tokens", create_request(prompt=range(10), max_tokens=4)),
        ("n", create_request(n=0)),
        ("n", create_request(n=1000)),
        ("request_id", create_request("taken", prompt=[1])),
    ],
)
def test_request_that_can_never_be_served_is_refused_by_field(field, request_):
    scheduler = FakeEngine(num_blocks=4).scheduler
    scheduler.add(create_request("taken", prompt=[1]))
    with pytest.raises(InvalidRequestError) as refusal:
        scheduler.add(request_)
    assert refusal.value.field == field
    assert scheduler.num_waiting == 1


def test_request_that_just_fits_the_pool_finishes():
    engine = FakeEngine(num_blocks=4)
    engine.add(create_request(prompt=range(10), max_tokens=3))
    engine.finish_all()


def test_id_is_free_again_after_the_last_choice_ended():
    engine = FakeEngine()
    engine.add(create_request("r", n=2))
    assert len(engine.scheduler.abort("r", choice=1)) == 1
    engine.finish_all()
    engine.add(create_request("r"))


@pytest.mark.parametrize("state", list(SequenceState))
def test_abort_in_any_state_frees_everything_and_reports_only_live_choices(state):
    engine = FakeEngine()
    (sequence,) = engine.add(create_request())
    if state is not SequenceState.WAITING:
        engine.step()
    if state is SequenceState.PREEMPTED:
        engine.preempt("r")
    if state is SequenceState.FINISHED:
        engine.finish_all()
    assert sequence.state is state
    was_live = state is not SequenceState.FINISHED
    assert engine.scheduler.abort("r") == ([sequence] if was_live else [])
    assert sequence.finish_reason is (FinishReason.ABORT if was_live else FinishReason.LENGTH)
    assert engine.pool.num_used == 0
    assert not engine.scheduler.has_work


def test_abort_during_a_step_drops_its_token_and_keeps_the_others_in_place():
    engine = FakeEngine()
    engine.add(create_request("gone", prompt=[1, 2]))
    (stays,) = engine.add(create_request("stays", prompt=[3, 4]))
    plan = engine.scheduler.schedule()
    engine.scheduler.abort("gone")
    assert engine.scheduler.advance(plan, [7, 8]) == [stays]
    assert stays.token_ids == [3, 4, 8]


def test_plan_is_advanced_once_and_only_if_newest_and_with_all_its_tokens():
    scheduler = FakeEngine().scheduler
    scheduler.add(create_request())
    old, plan = scheduler.schedule(), scheduler.schedule()
    with pytest.raises(ValueError, match="newest"):
        scheduler.advance(old, [1])
    with pytest.raises(ValueError, match="1 tokens needed, got 0"):
        scheduler.advance(plan, [])
    scheduler.advance(plan, [1])
    with pytest.raises(ValueError, match="advanced before"):
        scheduler.advance(plan, [1])


@pytest.mark.parametrize("old", SequenceState)
@pytest.mark.parametrize("new", SequenceState)
def test_sequence_takes_exactly_the_allowed_state_steps(old, new):
    (sequence,) = FakeEngine().add(create_request())
    sequence.state = old
    problem = pytest.raises(ValueError, match=f"{old.value} cannot become {new.value}")
    with nullcontext() if new in ALLOWED[old] else problem:
        sequence.move_to(new)


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_num_seqs", 0), ("max_batched_tokens", 63), ("retry_after_s", 0), ("block_size", 0)],
)
def test_setting_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"scheduler.{key}={value}"):
        SchedulerConfig(**{key: value})


def test_pool_of_another_block_size_is_refused():
    with pytest.raises(ConfigError, match="block_size"):
        Scheduler(SchedulerConfig(block_size=16), BlockPool(8, 8), lambda _: CONTEXT)


def test_a_resumed_request_goes_on_where_it_was_before_all_others_even_into_a_full_queue():
    engine = FakeEngine(max_waiting=2, max_num_seqs=1)
    engine.is_disturbed = True  # it runs before those that came to this gateway earlier
    engine.add(create_request("first"))
    engine.step()
    engine.add(create_request("second"))
    engine.add(create_request("third"))
    request = create_request("moved", n=2, max_tokens=6)
    known = tuple(expected_tokens(request, 1)[:4])
    resumed = (ResumedChoice((9,), is_ended=True), ResumedChoice(known))
    (sequence,) = engine.add(replace(request, resumed=resumed))
    assert (sequence.choice, sequence.num_generated, sequence.num_prompt) == (1, 4, 10)
    plans = engine.finish_all()
    assert sequence.token_ids[10:] == expected_tokens(request, 1)
    order = dict.fromkeys(entry.sequence.request_id for plan in plans for entry in plan.entries)
    assert list(order) == ["first", "moved", "second", "third"]


def test_lower_limits_end_nothing_that_runs_and_admit_nobody_until_it_has():
    engine = FakeEngine(max_num_seqs=4, max_batched_tokens=8)
    for name in "abcd":
        engine.add(create_request(name, prompt=[1], max_tokens=3))
    engine.step()
    engine.add(create_request("late", prompt=[1], max_tokens=1))
    limits = replace(engine.config, max_num_seqs=1, max_batched_tokens=1)
    engine.scheduler.reconfigure(limits)
    for _ in range(2):
        plan = engine.scheduler.schedule()
        assert "".join(entry.sequence.request_id for entry in plan.entries) == "abcd"
        engine.scheduler.advance(plan, engine.run_model(plan))
    for sequence in engine.sequences[:4]:
        engine.scheduler.finish(sequence, FinishReason.LENGTH)
    engine.finish_all()
    with pytest.raises(ConfigError, match="block_size"):
        engine.scheduler.reconfigure(replace(limits, block_size=2 * BLOCK))
