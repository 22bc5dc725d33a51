"""What becomes of frames that went by NCCL: each is answered, refused or resent, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import LinkAbortedError, ProtocolError
from router.exchange.nccl_away import Answered, AwayFrames, Refused, Resend
from shards.times import ShardTimes

TIMES = ShardTimes(0.1, 0.2)
REFUSAL = ProtocolError("not resident")
ABORTED = LinkAbortedError("stuck")


def away(*numbers):
    frames = AwayFrames()
    for number in numbers:
        frames.add(number, f"frame {number}")
        frames.announce(number)
    return frames


def test_a_frame_is_answered_when_rows_and_news_are_there_whichever_is_first():
    frames = away(1, 2)
    assert frames.told(1, TIMES) == []
    assert frames.rows_came([1, 2]) == [Answered("frame 1", TIMES)]
    assert frames.told(2, TIMES) == [Answered("frame 2", TIMES)]
    assert len(frames) == 0


def test_rows_of_a_refused_frame_mean_nothing():
    frames = away(1)
    frames.told(1, REFUSAL)
    assert frames.rows_came([1]) == [Refused("frame 1", REFUSAL)]


def test_after_an_abort_what_was_computed_or_never_announced_is_resent_and_the_rest_when_told():
    frames = away(1, 2, 3, 4)
    frames.add(5, "frame 5")
    frames.told(1, TIMES)
    frames.rows_came([4])
    assert frames.abort() == [Resend("frame 1"), Resend("frame 5")]
    assert frames.told(2, ABORTED) == [Resend("frame 2")]
    assert frames.told(3, REFUSAL) == [Refused("frame 3", REFUSAL)]
    assert frames.told(4, TIMES) == [Answered("frame 4", TIMES)]
    assert len(frames) == 0


@pytest.mark.parametrize("number", [1, 9])
def test_news_of_a_frame_that_is_not_away_is_a_fault_of_the_shard(number):
    frames = away(1)
    frames.rows_came([1])
    frames.told(1, TIMES)
    with pytest.raises(ProtocolError, match=f"frame {number}, which is not away"):
        frames.told(number, TIMES)


@given(st.permutations(["rows", "told", "abort"]), st.sampled_from([TIMES, REFUSAL, ABORTED]))
def test_whatever_the_order_a_frame_has_one_outcome(order, news):
    frames, outcomes, is_aborted = away(1), [], False
    for event in order:
        if not len(frames):
            break
        if event == "told":
            outcomes += frames.told(1, news)
        elif event == "abort":
            outcomes, is_aborted = outcomes + list(frames.abort()), True
        elif not is_aborted:  # nothing comes by NCCL after that
            outcomes += frames.rows_came([1])
    assert len(outcomes) == 1
