"""Laws of a stream's record: whatever gateways repeat or lose, tokens go out once and in order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.gateways import request
from router.engine.request import FinishReason, Hold, TokenDelta
from router.gateway.stream_record import (
    MAX_BARREN_MOVES,
    MAX_UNACCEPTED,
    StreamGapError,
    StreamRecord,
)


def delta(offset, tokens, reason=None, choice=0, **fields):
    return TokenDelta(
        request_id="r",
        choice=choice,
        offset=offset,
        token_ids=tokens,
        finish_reason=reason,
        **fields,
    )


def record(**sampling):
    return StreamRecord(request("r", **sampling))


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12))),
)
def test_each_token_goes_out_once_however_deltas_overlap(truth, pieces):
    made, out = record(), []
    for start, length in [*pieces, (0, len(truth))]:
        if start > len(out):
            with pytest.raises(StreamGapError):
                made.take(delta(start, truth[start : start + length]))
            continue
        new = made.take(delta(start, truth[start : start + length]))
        if new is not None:
            assert new.offset == len(out)
            out += new.token_ids
    assert out == truth
    made.move(was_running=True)
    (resumed,) = made.resumption().resumed
    assert list(resumed.token_ids) == truth
    assert not resumed.is_ended


def test_log_probabilities_stay_with_their_tokens():
    made = record()
    made.take(delta(0, (1, 2), logprobs=("a", "b")))
    new = made.take(delta(1, (2, 3), logprobs=("b", "c")))
    assert (new.offset, new.token_ids, new.logprobs) == (2, (3,), ("c",))


def test_choices_that_ended_are_resumed_as_ended_and_heard_no_more():
    made = record(n=2)
    made.take(delta(0, (1,), FinishReason.STOP, choice=1))
    assert not made.is_done
    assert made.take(delta(0, (1, 2), choice=1)) is None
    made.move(was_running=True)
    assert made.resumption().open_choices == [0]
    made.take(delta(0, (), FinishReason.LENGTH))
    assert made.is_done


def test_the_end_counts_although_its_tokens_were_known():
    made = record()
    made.take(delta(0, (1, 2)))
    last = made.take(delta(1, (2,), FinishReason.STOP, stop_token_id=2))
    assert (last.token_ids, last.finish_reason, made.is_done) == ((), FinishReason.STOP, True)


def test_what_the_client_gave_up_ends_without_its_gateway():
    made = record(n=3)
    made.abort(1)
    assert [d.choice for d in made.end_aborted()] == [1]
    made.abort(None)
    assert [(d.choice, d.finish_reason) for d in made.end_aborted()] == [
        (0, FinishReason.ABORT),
        (2, FinishReason.ABORT),
    ]
    assert made.is_done


def test_moves_without_a_token_are_limited_and_those_with_one_are_not():
    made = record(max_tokens=100)
    for offset in range(3 * MAX_BARREN_MOVES):
        made.take(delta(offset, (7,)))
        assert made.move(was_running=True)
    assert all(made.move(was_running=False) for _ in range(MAX_UNACCEPTED))
    assert not made.move(was_running=False)
    assert [made.move(was_running=True) for _ in range(MAX_BARREN_MOVES + 1)] == [
        *[True] * MAX_BARREN_MOVES,
        False,
    ]


def test_a_request_that_never_ran_is_sent_as_it_came():
    made = record()
    made.move(was_running=False)
    assert made.resumption().resumed == ()


def test_what_was_given_up_before_any_gateway_had_it_is_not_sent():
    made = record(n=2)
    made.abort(1)
    assert not made.is_unwanted
    made.end_aborted()
    assert made.resumption().open_choices == [0]
    made.abort(0)
    assert made.is_unwanted


def test_next_gateway_of_a_request_with_a_hold_gets_all_that_went_out():
    asked = replace(request("r", n=2), hold=Hold(1.0, b"owner", b"context"))
    made = StreamRecord(asked)
    out = [
        made.take(delta(0, (5, 6), logprobs=("a", "b"))),
        made.take(delta(1, (6, 7), logprobs=("b", "c"))),
        made.take(delta(0, (8,), choice=1)),
    ]
    assert made.take(delta(0, (5,))) is None
    made.abort(1)
    out += made.end_aborted()
    assert made.move(was_running=True)
    resumption = made.resumption()
    assert list(resumption.hold.history) == out
    assert [choice.is_ended for choice in resumption.resumed] == [False, True]
    assert StreamRecord(request("r")).resumption().hold is None
