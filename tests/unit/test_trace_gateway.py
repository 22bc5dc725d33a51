"""Requests at a gateway, on a clock of the test's: what is kept, and that nothing stays held."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.logs import trace_ids
from helpers.gateways_told import TRACE_ID, Told, delta
from router.engine.request import FinishReason


@pytest.fixture
def told():
    with Told() as told:
        yield told


def names(span):
    return [child.name for child in span.children]


def test_queue_prefill_and_decode_follow_one_another_without_gaps(told):
    told.arrive("r", is_sampled=True, waits_s=0.5)
    told.step([("r", 0)], seconds=0.2)  # a chunk of the prompt
    told.step([("r", 0)], [delta("r", 1)], seconds=0.1)
    told.step([("r", 0)], [delta("r", 1)], seconds=0.01)
    told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)], seconds=0.03)
    span = told.only_span()
    assert names(span) == ["admit", "queue", "prefill", "decode"]
    admit, queue, prefill, decode = span.children
    assert (span.start_s, admit.end_s) == (admit.start_s, queue.start_s)
    assert (queue.end_s, prefill.end_s) == (prefill.start_s, decode.start_s)
    assert decode.end_s == span.end_s
    assert queue.seconds == pytest.approx(0.5)
    assert prefill.attributes["galerne.steps"] == 2
    assert decode.attributes["galerne.steps"] == 2
    assert decode.attributes["galerne.steps.longest_s"] == pytest.approx(0.03)
    assert decode.attributes["gen_ai.usage.output_tokens"] == 3
    assert decode.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert [step.seconds for step in (*prefill.children, *decode.children)] == pytest.approx(
        [0.2, 0.03]
    )


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        *(("fast", ""), ("sampled", "sampled"), ("slow", "slow"), ("failed", "failed")),
        *(("resumed", "retried"), ("resent", "retried")),
    ],
)
def test_why_a_request_is_kept(told, case, reason):
    trace = told.arrive("r", is_sampled=case == "sampled", is_resumed=case == "resumed")
    if case == "failed":
        told.step([("r", 0)], [delta("r", 0, FinishReason.ERROR, error="e")], error="planted")
    else:
        seconds, attempt = (5.0 if case == "slow" else 0.01), int(case == "resent")
        told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)], seconds=seconds, attempt=attempt)
    assert trace.kept == reason
    assert len(told.spans()) == bool(reason)


def test_a_failed_step_is_told_where_it_happened(told):
    told.arrive("r")
    told.step([("r", 0)], [delta("r", 1)])
    told.step([("r", 0)], [delta("r", 0, FinishReason.ERROR, error="no shard")], error="planted")
    span = told.only_span()
    decode = span.children[-1]
    assert (span.error, decode.error) == ("no shard", "no shard")
    assert [event.name for event in decode.events] == ["step failed"]
    assert decode.children[0].error == "planted"


def test_a_request_ends_with_its_last_choice(told):
    told.arrive("r", num_choices=2, is_sampled=True)
    told.step([("r", 0), ("r", 1)], [delta("r", 1), delta("r", 1, choice=1)])
    told.step([("r", 0)], [delta("r", 1, FinishReason.LENGTH)], preempted=[("r", 1)])
    assert told.spans() == []
    told.tracer.aborted("r", 1, [1])
    span = told.only_span()
    # The second was ended before it had decoded anything.
    assert names(span) == ["admit", "queue", "prefill", "decode", "queue", "prefill"]
    assert [event.name for event in span.events] == ["preempted"]
    assert span.attributes["gen_ai.usage.output_tokens"] == 3


def test_requests_of_others_in_the_same_step_are_not_told(told):
    told.arrive("r", is_sampled=True)
    told.step([("r", 0), ("untraced", 0)], [delta("untraced", 1), delta("r", 1, FinishReason.STOP)])
    assert told.only_span().attributes["galerne.request"] == "r"


def test_who_tells_of_no_trace_is_not_followed(told):
    asked = told.request("r", 1)
    assert told.tracer.join(asked, (("traceparent", "nonsense"),)) is None
    told.tracer.added(asked)
    told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)])
    assert told.spans() == []
    assert told.num_watched == 0, "steps without a traced request are not watched"


def test_an_id_that_is_in_use_takes_nothing_from_the_request_that_runs(told):
    told.arrive("r", is_sampled=True)
    refused = told.tracer.join(told.request("r", 1), told.headers(is_sampled=True))
    told.tracer.leave(refused)
    assert trace_ids["r"] == TRACE_ID
    told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)])
    assert told.only_span().attributes["gen_ai.usage.output_tokens"] == 1


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "refuse", "step", "fail", "abort", "again"]),
        st.integers(0, 3),
        st.integers(1, 3),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS, st.booleans(), st.integers(1, 4))
def test_whatever_happens_nothing_is_held_when_all_have_ended(events, is_sampled, most):
    with Told(buffer_steps=most) as told:
        running = {}
        for what, number, count in events:
            name = f"r{number}"
            if what == "arrive" and name not in running:
                told.arrive(name, num_choices=count, is_sampled=is_sampled)
                running[name] = set(range(count))
            elif what == "refuse":
                told.tracer.leave(told.tracer.join(told.request(name, 1), told.headers()))
            elif what in ("step", "fail"):
                entries = [(n, c) for n, open_ in running.items() for c in sorted(open_)]
                ended = entries[: count - 1]
                reason = FinishReason.ERROR if what == "fail" else FinishReason.STOP
                deltas = [delta(n, 1, reason, choice=c) for n, c in ended]
                told.step(entries, deltas, error="planted" if what == "fail" else "")
                for n, c in ended:
                    running[n].discard(c)
            elif what == "abort" and name in running:
                told.tracer.aborted(name, None, sorted(running[name]))
                running[name] = set()
            running = {n: open_ for n, open_ in running.items() if open_}
            assert told.tracer.buffer.num_held <= most
        for name, open_ in running.items():
            told.tracer.aborted(name, None, sorted(open_))
        assert told.tracer.buffer.num_held == 0
        assert not told.tracer._open
        assert not told.tracer._joined
        assert not trace_ids
        for span in told.spans():
            assert_within(span)


def assert_within(span):
    for child in span.children:
        assert span.start_s <= child.start_s <= child.end_s <= span.end_s
        assert_within(child)


def test_a_writer_that_cannot_keep_up_costs_traces_and_nothing_else(told, monkeypatch):
    monkeypatch.setattr("router.tracing.gateway.MAX_PENDING", 0)
    told.arrive("r", is_sampled=True)
    told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)])
    assert told.spans() == []
    assert told.tracer.num_dropped == 1


def test_a_span_that_cannot_be_written_does_not_end_the_writer(told):
    fine = told.writer.write
    told.writer.write = lambda span, parent: SimpleNamespace().nothing
    told.arrive("r", is_sampled=True)
    told.step([("r", 0)], [delta("r", 1, FinishReason.STOP)])
    told.settle()
    told.writer.write = fine
    told.arrive("s", is_sampled=True)
    told.step([("s", 0)], [delta("s", 1, FinishReason.STOP)])
    assert told.only_span().attributes["galerne.request"] == "s"
