"""A step as spans: everything within its parent, and nothing held beyond its bound."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.tracing.spans import SpanData, nested, within
from router.tracing.step_detail import StepBuffer, StepDetail
from router.tracing.step_spans import step_span
from shards.times import ShardTimes

LAYER_PARTS = ("projections", "attention", "gate", "dispatch", "shared expert")
LAYER_PARTS += ("experts and wire", "combine")
TIMES = ShardTimes(0.0002, 0.0005)


def walk(span):
    yield span
    for child in span.children:
        yield from walk(child)


def assert_within(span):
    for child in span.children:
        assert span.start_s <= child.start_s <= child.end_s <= span.end_s
        assert_within(child)


@st.composite
def intervals(draw, start=0, end=1000, depth=0):
    """Times of one thread: each holds others or is apart from them."""
    found = []
    count = draw(st.integers(0, 3 if depth < 3 else 0))
    cuts = sorted(draw(st.lists(st.integers(start, end), min_size=2 * count, max_size=2 * count)))
    for begin, stop in zip(cuts[::2], cuts[1::2], strict=True):
        found.append((begin, stop))
        found += draw(intervals(begin, stop, depth + 1))
    return found


@given(intervals())
def test_spans_of_one_thread_lie_below_the_shortest_that_holds_them(times):
    spans = [SpanData(str(number), *map(float, time)) for number, time in enumerate(times)]
    roots = nested(spans)
    found = [span for root in roots for span in walk(root)]
    assert sorted(span.name for span in found) == sorted(span.name for span in spans)
    for root in roots:
        assert_within(root)
    for level in (roots, *(span.children for span in found)):
        for one, other in pairwise(level):
            assert one.end_s <= other.start_s or not (
                one.start_s <= other.start_s and other.end_s <= one.end_s
            )


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=5), st.floats(-1, 1))
def test_cut_spans_are_within(times, start):
    children = tuple(SpanData("c", *time) for time in times)
    assert_within(within(SpanData("p", -9, 9, children=children), start, start + 1))


# -- steps -------------------------------------------------------------------------------------


def step_of(num_layers, shards=("a", "b"), part_s=0.001, micro_batches=1, times=TIMES):
    """A step that takes ``part_s`` for every part; shards answer while the gateway waits."""
    now = clock = 0.0
    step = StepDetail(7, 0.0, 2, 2, now_s=lambda: clock)

    def part(name, seconds=part_s):
        nonlocal now
        step.part(name, now, now + seconds)
        now += seconds

    part("embed")
    for layer in range(num_layers):
        for micro_batch in range(micro_batches):
            for name in LAYER_PARTS:
                if name == "shared expert":
                    for number, shard in enumerate(shards):
                        frame = layer * micro_batches + micro_batch, shard
                        step.frame_sent(frame, shard, layer, 0, 3, now)
                        clock = now + part_s + (number + 1) * part_s / len(shards)
                        if times is not None:
                            step.frame_answered(frame, 0.0, times)
                part(name)
    part("head")
    step.part("model", 0.0, now)
    part("sample")
    step.end_s = now
    return step


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_times_of_a_step_add_up_within_their_parents(num_layers, micro_batches):
    span = step_span(step_of(num_layers, micro_batches=micro_batches), num_layers)
    assert_within(span)
    parts = [s for s in walk(span) if s.name in ("embed", *LAYER_PARTS, "head", "sample")]
    assert len(parts) == 3 + num_layers * micro_batches * len(LAYER_PARTS)
    assert sum(part.seconds for part in parts) == pytest.approx(span.seconds)


def test_each_layer_holds_its_parts_and_its_frames_and_the_last_shard_in_full():
    span = step_span(step_of(3), 3)
    layers = [s for s in walk(span) if s.name.startswith("layer ")]
    assert [layer.attributes["galerne.layer"] for layer in layers] == [0, 1, 2]
    for layer in layers:
        names = [child.name for child in layer.children]
        assert sorted(names) == sorted([*LAYER_PARTS, "experts", "experts"])
        first, last = (child for child in layer.children if child.name == "experts")
        assert (first.shard, last.shard) == ("a", "b")
        assert not first.children
        assert first.attributes["galerne.queue_us"] == 200
        assert first.attributes["galerne.service_us"] == 500
        names = [child.name for child in last.children]
        assert names == ["wire", "shard queue", "expert compute", "wire"]
        assert sum(child.seconds for child in last.children) == pytest.approx(last.seconds)
        queue, compute = last.children[1:3]
        assert (queue.seconds, compute.seconds) == pytest.approx((0.0002, 0.0005))


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_a_shard_says_never_leaves_the_time_that_the_gateway_waited(queue_s, service_s):
    span = step_span(step_of(2, times=ShardTimes(queue_s, service_s)), 2)
    assert_within(span)


def test_a_frame_without_an_answer_is_an_error_until_the_layers_end():
    span = step_span(step_of(2, times=None), 2)
    assert_within(span)
    frames = [s for s in walk(span) if s.name == "experts"]
    assert len(frames) == 4
    assert all(frame.error == "no answer within the step" for frame in frames)


def test_sums_of_all_layers_in_one_call_are_not_grouped():
    step = StepDetail(1, 0.0, 1, 1, end_s=1.0)
    for number, name in enumerate(("attention", "gate", "combine")):
        step.part(name, number / 10, (number + 1) / 10)
    step.part("model", 0.0, 0.9)
    (model,) = step_span(step, 8).children
    assert [child.name for child in model.children] == ["attention", "gate", "combine"]


def test_a_retry_is_seen_and_the_first_answer_counts():
    step = StepDetail(1, 0.0, 1, 1, now_s=lambda: 5.0)
    step.frame_sent(1, "a", 0, 0, 3, 5.0)
    assert not step.is_retried
    step.frame_sent(2, "b", 0, 1, 3, 5.0)
    assert step.is_retried
    step.frame_answered(9, 0.0, ShardTimes())  # of an earlier step
    step.frame_answered(2, 1e9, ShardTimes(1.0, 2.0))
    step.frame_answered(2, 0.0, ShardTimes(3.0, 4.0))
    first, second = step.frames
    assert (first.answered_s, first.sent_s) == (None, 5.0)
    assert (second.answered_s, second.times) == (5.0, ShardTimes(1.0, 2.0))


# -- the bound ---------------------------------------------------------------------------------


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_no_more_steps_are_held_than_the_bound_whoever_holds_and_lets_go(most, moves):
    buffer, held, steps = StepBuffer(most), {}, []
    for holder, is_new in moves:
        if is_new or not steps:
            steps.append(StepDetail(len(steps), 0.0, 1, 1))
        if steps[-1] is held.get(holder):
            buffer.release(held.pop(holder))
        else:
            held[holder] = buffer.exchange(held.get(holder), steps[-1])
        distinct = {id(step) for step in held.values() if step is not None}
        assert buffer.num_held == len(distinct) <= most
    for step in held.values():
        buffer.release(step)
    assert buffer.num_held == 0
