"""The engine on a real tiny model: batching, sampling, stopping, aborting, preemption."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest

from galerne.errors import (
    EpochRetiredError,
    GalerneError,
    InvalidRequestError,
    NotServingError,
    OverloadedError,
)
from helpers.fixture_models import checkpoint, expected, fixture_image, prompt
from helpers.gateways import engine, request
from helpers.waiting import wait_until
from router.engine.preparing import NoImages
from router.engine.request import FinishReason

LONG = tuple(range(20, 150))


@pytest.fixture(scope="module")
def running():
    with engine(checkpoint()) as pair:
        yield pair


def generate(running, *requests):
    made, collector = running
    for r in requests:
        made.submit(r).result(60)
    return [collector.wait(r.request_id) for r in requests]


def tokens(deltas):
    return [t for d in deltas for t in d.token_ids]


def test_greedy_tokens_in_float32_are_the_expected_ones_for_all_prompts_at_once():
    import torch

    cases = ("len1", "len7", "len70", "len130", "batch0", "batch1", "batch2", "image")
    with engine(checkpoint(), torch.float32) as running:
        requests = [
            request(c, prompt(c), images=(fixture_image(),) if c == "image" else (), max_tokens=24)
            for c in cases
        ]
        for case, deltas in zip(cases, generate(running, *requests), strict=True):
            assert tokens(deltas) == expected("tiny-hf-bf16")[f"{case}.greedy_ids"].tolist()


def test_offsets_are_contiguous_and_the_last_delta_says_why(running):
    (deltas,) = generate(running, request("offsets", max_tokens=5))
    assert [d.offset for d in deltas] == [0, 1, 2, 3, 4]
    assert [d.finish_reason for d in deltas] == [None] * 4 + [FinishReason.LENGTH]


def test_a_stop_token_ends_with_its_id(running):
    (first,) = generate(running, request("probe", max_tokens=4))
    stop = tokens(first)[2]
    (deltas,) = generate(running, request("stopped", max_tokens=9, stop_token_ids=(stop,)))
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].stop_token_id == stop == tokens(deltas)[-1]


def test_min_tokens_keeps_a_stop_token_from_being_drawn(running):
    (first,) = generate(running, request("min-probe", max_tokens=3))
    stop = tokens(first)[0]
    (deltas,) = generate(
        running, request("min", max_tokens=6, min_tokens=4, stop_token_ids=(stop,))
    )
    assert stop not in tokens(deltas)[:4]


def test_choices_of_one_request_draw_apart_and_repeat_with_the_seed(running):
    made, collector = running
    sampling = {"temperature": 1.0, "seed": 11, "n": 3, "max_tokens": 12}
    for name in ("n-a", "n-b"):
        made.submit(request(name, LONG, **sampling)).result(60)
    runs = [[collector.tokens(name, c) for c in range(3)] for name in ("n-a", "n-b")]
    assert runs[0] == runs[1]
    assert len({tuple(t) for t in runs[0]}) == 3


def test_logprobs_and_prompt_logprobs_are_those_of_the_model(running):
    (deltas,) = generate(running, request("lp", LONG[:40], logprobs=3, prompt_logprobs=1))
    assert len(deltas[0].prompt_logprobs) == 40
    assert deltas[0].prompt_logprobs[0] is None
    for delta in deltas:
        (position,) = delta.logprobs
        assert position.chosen == position.top[0]
        assert len(position.top) == 3
    again = generate(running, request("lp2", LONG[:40], logprobs=3, prompt_logprobs=1))[0]
    assert again[0].prompt_logprobs == deltas[0].prompt_logprobs


def test_a_prefix_hit_changes_no_token(running):
    (cold,) = generate(running, request("cold", LONG, cache_salt="fresh"))
    (warm,) = generate(running, request("warm", LONG, cache_salt="fresh"))
    assert cold[0].num_cached_tokens == 0
    assert warm[0].num_cached_tokens == 128
    assert tokens(warm) == tokens(cold)


def test_abort_ends_a_running_request_and_frees_its_blocks(running):
    made, collector = running
    made.submit(request("aborted", LONG, max_tokens=800)).result(60)
    collector.wait("aborted", tokens=3)
    assert made.abort("aborted").result(60)
    assert collector.wait("aborted")[-1].finish_reason is FinishReason.ABORT
    assert not made.abort("aborted").result(60)
    assert made.load().kv_blocks_used == 0


def test_forced_preemption_changes_no_token(running):
    made, collector = running
    long = {"max_tokens": 600}  # it must not end before it is preempted
    want = tokens(generate(running, request("calm", LONG, cache_salt="p", **long))[0])
    made.submit(request("shaken", LONG, cache_salt="q", **long)).result(60)
    for count in (5, 20):
        collector.wait("shaken", tokens=count)
        made.preempt("shaken").result(60)
    assert collector.tokens("shaken") == want
    assert made.load().preemptions >= 1


def test_a_small_pool_preempts_and_every_request_still_ends_with_its_tokens():
    requests = [request(f"s{i}", LONG[i : i + 60], max_tokens=150) for i in range(6)]
    with engine(checkpoint(), num_blocks=20, max_model_len=256) as small:
        crowded = [tokens(d) for d in generate(small, *requests)]
        assert small[0].load().preemptions > 0
    with engine(checkpoint()) as large:
        alone = [tokens(generate(large, r)[0]) for r in requests]
    assert crowded == alone


def test_a_full_queue_refuses_and_what_was_accepted_ends():
    with engine(checkpoint(), max_waiting=2, max_num_seqs=1) as running:
        made, _ = running
        futures = [made.submit(request(f"q{i}", max_tokens=30)) for i in range(8)]
        errors = [f.exception(10) for f in futures]
        assert any(isinstance(e, OverloadedError) for e in errors)
        for i, error in enumerate(errors):
            if error is None:
                assert len(running[1].tokens(f"q{i}")) == 30


def test_a_request_that_can_never_fit_is_refused():
    with engine(checkpoint(), num_blocks=6) as (made, _):  # noqa: SIM117 - two stories
        with pytest.raises(InvalidRequestError):
            made.submit(request("huge", LONG)).result(60)


def test_a_failing_step_ends_its_requests_with_an_error_and_the_engine_lives_on():
    class Failing:
        def __init__(self, inner):
            self.inner, self.fail = inner, True

        def run_plan(self, step, plan):
            if self.fail:
                self.fail = False
                raise GalerneError("planted")
            return self.inner.run_plan(step, plan)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with engine(checkpoint(), wrap=Failing) as running:
        (deltas,) = generate(running, request("fails"))
        assert deltas[-1].finish_reason is FinishReason.ERROR
        assert "planted" in deltas[-1].error
        assert len(tokens(generate(running, request("lives"))[0])) == 8
        assert running[0].unready_reason() is None


class Retired:
    """Its epoch serves no more, for a while."""

    def __init__(self, inner):
        self.inner, self.is_retired = inner, threading.Event()

    def run_plan(self, step, plan):
        if self.is_retired.is_set():
            raise EpochRetiredError(1)
        return self.inner.run_plan(step, plan)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_no_token_is_lost_while_the_epoch_is_retired(running):
    sampled = {"max_tokens": 200, "temperature": 1.0, "seed": 4}
    (want,) = generate(running, request("served", **sampled))
    with engine(checkpoint(), wrap=Retired) as (made, collector):
        made.submit(request("waits", **sampled)).result(60)
        collector.wait("waits", tokens=5)
        made._runner.is_retired.set()
        made.submit(request("comes", **sampled)).result(60)
        wait_until(lambda: made.metrics.dropped_steps._value.get() >= 3)
        assert "its topology is retired" in made.unready_reason()
        made._runner.is_retired.clear()
        assert collector.tokens("waits") == collector.tokens("comes") == tokens(want)
        assert made.unready_reason() is None


def test_an_engine_whose_epoch_stays_retired_ends_and_its_streams_go_on_elsewhere(monkeypatch):
    monkeypatch.setattr("router.engine.engine.RETIRED_PATIENCE_S", 0.3)
    with engine(checkpoint(), wrap=Retired) as (made, collector):
        made._runner.is_retired.set()
        made.submit(request("moves")).result(60)
        assert collector.wait("moves")[-1].finish_reason is FinishReason.ABORT
        assert made.is_closed


def test_logits_that_are_not_numbers_end_one_request_only():
    class Poison:
        def __init__(self, inner):
            self.inner = inner

        def run_plan(self, step, plan):
            logits = self.inner.run_plan(step, plan).copy()
            for row, entry in enumerate(e for e in plan.entries if e.samples):
                if entry.sequence.request_id == "sick":
                    logits[row] = np.nan
            return logits

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with engine(checkpoint(), wrap=Poison) as running:
        sick, well = generate(running, request("sick"), request("well"))
        assert sick[-1].finish_reason is FinishReason.ERROR
        assert len(tokens(well)) == 8


class Gate:
    """Holds every step until the test lets it go."""

    def __init__(self, inner):
        self.inner = inner
        self.open = threading.Event()
        self.entered = threading.Event()

    def run_plan(self, step, plan):
        self.entered.set()
        assert self.open.wait(60)
        return self.inner.run_plan(step, plan)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@contextmanager
def gated(**settings):
    gates = []

    def wrap(inner):
        gates.append(Gate(inner))
        return gates[0]

    with engine(checkpoint(), wrap=wrap, **settings) as (made, collector):
        try:
            yield made, collector, gates[0]
        finally:
            gates[0].open.set()


def test_a_caller_that_gives_up_while_a_step_is_stuck_harms_nobody():
    with gated() as (made, collector, gate):
        made.submit(request("first")).result(60)
        assert gate.entered.wait(60)
        given_up = made.submit(request("second"))
        assert given_up.cancel()
        made.abort("second")
        gate.open.set()
        assert len(collector.tokens("first")) == 8
        made.submit(request("third")).result(60)
        assert len(collector.tokens("third")) == 8


def test_the_queue_is_bounded_even_while_a_step_is_stuck():
    with gated(max_waiting=3) as (made, collector, gate):
        made.submit(request("running")).result(60)
        assert gate.entered.wait(60)
        futures = [made.submit(request(f"w{i}")) for i in range(5)]
        assert [f.done() for f in futures] == [False] * 3 + [True] * 2
        assert isinstance(futures[-1].exception(), OverloadedError)
        gate.open.set()
        for i in range(3):
            assert len(collector.tokens(f"w{i}")) == 8


def test_a_loop_that_dies_leaves_nobody_waiting():
    class Dying(Gate):
        def poll(self):
            if self.open.is_set():
                raise RuntimeError("planted")
            return self.inner.poll()

    with engine(checkpoint(), wrap=Dying) as (made, collector):
        dying = made._runner
        made.submit(request("doomed", max_tokens=100)).result(60)
        assert dying.entered.wait(60)
        dying.open.set()
        assert collector.wait("doomed")[-1].finish_reason is FinishReason.ABORT
        assert made.is_closed
        with pytest.raises(NotServingError):
            made.submit(request("late")).result(60)
        wait_until(lambda: not made.is_alive)  # what it ran is told of the end first
        assert made.unready_reason() == "the engine loop is not running"


def test_one_choice_can_be_ended_while_the_others_go_on(running):
    made, collector = running
    made.submit(request("two", n=2, max_tokens=600, temperature=1.0, seed=3)).result(60)
    collector.wait("two", choice=1, tokens=3)
    assert made.abort("two", choice=1).result(60)
    assert collector.wait("two", choice=1)[-1].finish_reason is FinishReason.ABORT
    assert len(collector.tokens("two", choice=0)) == 600


def test_an_image_for_a_model_without_vision_fails_its_own_request_only(running):
    made, _ = running
    made._preparing._preparer, preparer = NoImages(), made._preparing._preparer
    try:
        with pytest.raises(InvalidRequestError, match="images"):
            made.submit(request("img", prompt("image"), images=(fixture_image(),))).result(60)
    finally:
        made._preparing._preparer = preparer
    assert len(tokens(generate(running, request("after-img"))[0])) == 8
