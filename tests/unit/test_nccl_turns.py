"""The order of what goes between two GPUs: nothing waits for what was put behind something else."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import ProtocolError
from shards.nccl.turns import DEPTH, Turn, TurnBook, TurnPlanner


def turns_of(planner):
    turns = []
    while (turn := planner.next()) is not None:
        turns.append(turn)
    return turns


def test_one_frame_goes_at_once_and_its_rows_are_asked_for_when_somebody_waits():
    planner = TurnPlanner()
    planner.send(7)
    assert turns_of(planner) == [Turn(1, 7, ())]
    planner.ask()
    assert turns_of(planner) == [Turn(2, None, (7,))]
    assert turns_of(planner) == []


def test_in_a_burst_rows_come_back_in_the_turns_that_send():
    planner = TurnPlanner(depth=2, max_open=100)
    for frame in range(5):
        planner.send(frame)
    assert [(t.sent, t.answers) for t in turns_of(planner)] == [
        *((0, ()), (1, ())),
        *((2, (0,)), (3, (1,)), (4, (2,))),
    ]
    planner.ask()
    assert [(t.sent, t.answers) for t in turns_of(planner)] == [(None, (3, 4))]


def test_no_more_turns_are_open_than_may_be_and_what_is_asked_meanwhile_is_not_forgotten():
    planner = TurnPlanner(max_open=2)
    for frame in range(3):
        planner.send(frame)
    planner.ask()
    assert [t.sent for t in turns_of(planner)] == [0, 1]
    planner.finished()
    assert [t.sent for t in turns_of(planner)] == [2]
    planner.finished()
    assert [(t.sent, t.answers) for t in turns_of(planner)] == [(None, (1, 2))]


@given(st.lists(st.sampled_from(["send", "ask", "finish"]), max_size=60), st.integers(1, 5))
def test_every_frame_is_sent_once_and_asked_for_once_in_a_later_turn(events, max_open):
    planner, num_sent, num_over = TurnPlanner(DEPTH, max_open), 0, 0
    turns = []
    for event in [*events, "ask", *["finish"] * (2 * len(events) + 2)]:
        if event == "send":
            planner.send(num_sent)
            num_sent += 1
        elif event == "ask":
            planner.ask()
        elif num_over < len(turns):
            planner.finished()
            num_over += 1
        turns += turns_of(planner)
        assert len(turns) - num_over <= max_open
    assert [t.number for t in turns] == list(range(1, len(turns) + 1))
    assert [t.sent for t in turns if t.sent is not None] == list(range(num_sent))
    assert [frame for t in turns for frame in t.answers] == list(range(num_sent))
    sent_in = {t.sent: t.number for t in turns}
    assert all(sent_in[frame] < t.number for t in turns for frame in t.answers)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 6), st.randoms())
def test_both_ends_call_for_the_same_turns_whatever_the_order_of_computing(
    num_frames, depth, max_open, rng
):
    """A law: with any depth and any delays, gateway and shard get through, in one order."""
    planner, book = TurnPlanner(depth, max_open), TurnBook()
    at_gateway, at_shard, wire = deque(), deque(), deque()
    computing, done = [], []
    for frame in range(num_frames):
        planner.send(frame)
    planner.ask()
    for _ in range(50 * num_frames):
        match rng.choice(["gateway", "wire", "shard", "compute", "device"]):
            case "gateway" if (turn := planner.next()) is not None:
                at_gateway.append(turn)
                wire.append(turn)
            case "wire" if wire:
                book.announce(wire.popleft())
            case "shard" if (turn := book.next()) is not None:
                at_shard.append(turn)
            case "compute" if computing:
                book.answered(computing.pop(rng.randrange(len(computing))))
            case "device" if at_gateway and at_shard:
                turn = at_gateway.popleft()
                assert turn == at_shard.popleft()
                planner.finished()
                done += turn.answers
                computing += [] if turn.sent is None else [turn.sent]
    finish(planner, book, at_gateway, at_shard, wire, computing, done)
    assert done == list(range(num_frames))


def finish(planner, book, at_gateway, at_shard, wire, computing, done):
    """Let all that is left happen, in turn."""
    for _ in range(10_000):
        if (turn := planner.next()) is not None:
            at_gateway.append(turn)
            wire.append(turn)
        elif wire:
            book.announce(wire.popleft())
        elif (turn := book.next()) is not None:
            at_shard.append(turn)
        elif computing:
            book.answered(computing.pop())
        elif at_gateway and at_shard:
            turn = at_gateway.popleft()
            assert turn == at_shard.popleft()
            planner.finished()
            done += turn.answers
            computing += [] if turn.sent is None else [turn.sent]
        else:
            return
    raise AssertionError("it does not come to an end")


def test_a_shard_calls_for_a_turn_when_all_its_rows_are_there():
    book = TurnBook()
    for turn in (Turn(1, 0, ()), Turn(2, 1, ()), Turn(3, None, (0, 1))):
        book.announce(turn)
    assert [book.next().number, book.next().number] == [1, 2]
    book.answered(1)
    assert book.next() is None
    book.answered(0)
    assert book.next() == Turn(3, None, (0, 1))


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (Turn(3, 5, ()), "turn 3 where 2 was expected"),
        (Turn(2, 0, ()), "sends frame 0 again"),
        (Turn(2, 1, (1,)), "wants rows of frame 1"),
        (Turn(2, None, (9,)), "wants rows of frame 9"),
        (Turn(2, None, (0, 0)), "wants rows of frame 0"),
    ],
)
def test_a_turn_that_cannot_be_the_next_one_is_refused_by_name(turn, said):
    book = TurnBook()
    book.announce(Turn(1, 0, ()))
    with pytest.raises(ProtocolError, match=said):
        book.announce(turn)


def test_rows_are_asked_for_once():
    book = TurnBook()
    book.announce(Turn(1, 0, ()))
    book.announce(Turn(2, None, (0,)))
    with pytest.raises(ProtocolError, match="wants rows of frame 0"):
        book.announce(Turn(3, None, (0,)))
