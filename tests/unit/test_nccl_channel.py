"""One end of a communicator: what is called for, when it is over, and how it is let go of."""

import gc
import threading
import time
import weakref

import pytest
import torch

from galerne.clock import MonotonicClock, VirtualClock
from helpers.fake_nccl import FakeFabric
from helpers.waiting import wait_until
from shards.nccl.channel import Channel
from shards.nccl.port import NcclFaultError
from shards.nccl.runtime import NcclConfig, NcclRuntime


@pytest.fixture
def clock():
    return VirtualClock(100.0)


@pytest.fixture
def ends(clock):
    """Both ends of a link."""
    fabric = FakeFabric()
    ports, number, made = (fabric.port(), fabric.port()), fabric.new_id(), {}

    def join(rank):
        made[rank] = Channel(ports[rank], ports[rank].join(2, number, rank), rank, clock)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    yield made[0], made[1]
    fabric.close()


def rows(value, count=4):
    return torch.full((count, 2), float(value))


def post(channel, sends=(), receives=(), fences=(), on_done=lambda: None):
    channel.post(sends, receives, fences, on_done)


def test_tensors_meet_in_the_order_in_which_both_ends_name_them(ends):
    a, b = ends
    there, back = [rows(1), rows(2), rows(3)], [rows(4), rows(5)]
    taken, answers = [rows(0) for _ in there], [rows(0) for _ in back]
    post(a, there, answers)
    post(b, back, taken)
    assert [each[0, 0].item() for each in taken] == [1, 2, 3]
    assert [each[0, 0].item() for each in answers] == [4, 5]


def test_what_goes_out_and_what_comes_in_have_streams_of_their_own(ends):
    a, _ = ends
    post(a, [rows(1)], [rows(0)])
    out, back = a._port.streams
    (operation,) = a._communicator.queue
    assert operation.streams == [out, back]


@pytest.mark.parametrize("is_sent", [True, False], ids=["only out", "only in"])
def test_a_turn_of_one_direction_waits_for_what_made_its_memory(ends, is_sent):
    a, b = ends
    a._port.fences = []
    fence, ours, theirs = a._port.fence(), rows(1), rows(2)
    if is_sent:
        post(a, [ours], [], [fence])
        post(b, [], [theirs])
    else:
        post(a, [], [ours], [fence])
        post(b, [theirs])
    assert (ours[0, 0].item(), theirs[0, 0].item()) == (1, 2)
    fence.come()
    assert torch.equal(ours, theirs)


def test_memory_of_a_turn_is_held_until_it_is_over_or_the_abort_is(ends):
    a, b = ends
    for end in (lambda: (post(b, [], [rows(0)]), a.poll()), lambda: (a.give_up(""), a.abort(0.0))):
        given = rows(1)
        held = weakref.ref(given)
        post(a, [given])
        del given
        gc.collect()
        assert held() is not None
        end()
        gc.collect()
        assert held() is None


def test_a_turn_is_told_of_once_in_order_and_when_both_its_streams_have_run(ends):
    a, b = ends
    told = []
    for number in range(3):
        post(a, [rows(number)], on_done=lambda n=number: told.append(n))
    a.poll()
    assert told == []
    assert a.num_open == 3
    post(b, [], [rows(0)])
    late = a._open[0].ends[0]
    late.has_come = False  # as where one direction takes longer
    a.poll()
    assert told == []
    late.has_come = True
    post(b, [], [rows(0)])
    a.poll()
    a.poll()
    assert told == [0, 1]
    assert a.num_open == 1


def test_the_end_of_a_turn_that_was_given_up_is_not_told(ends):
    a, b = ends
    told = []
    post(a, [rows(1)], on_done=lambda: told.append(1))
    post(b, [], [rows(0)])
    assert a.give_up("for the test")
    a.poll()
    assert told == []
    assert a.num_open == 0
    assert a.reason == "for the test"


def test_a_channel_is_given_up_once_and_its_first_reason_stays(ends):
    a, _ = ends
    assert [a.give_up("first"), a.give_up("second")] == [True, False]
    assert a.reason == "first"
    with pytest.raises(NcclFaultError, match="first"):
        post(a, [rows(1)])


def test_a_turn_is_overdue_from_when_it_was_the_oldest(ends, clock):
    a, b = ends
    assert a.overdue(5.0) == ""
    post(a, [rows(1)])
    clock.move_to(104.0)
    post(a, [rows(2)])
    clock.move_to(105.5)
    assert a.overdue(5.0) == "a turn was not over after 5 s"
    post(b, [], [rows(0)])
    a.poll()  # the second is the oldest now
    clock.move_to(110.0)
    assert a.overdue(5.0) == ""
    clock.move_to(111.0)
    assert a.overdue(5.0) == "a turn was not over after 5 s"
    post(b, [], [rows(0)])
    a.poll()
    assert a.overdue(5.0) == ""


def stuck_call(channel):
    """A thread in a call that does not return."""
    channel._port.call_gate.clear()
    caught = []

    def call():
        try:
            post(channel, [rows(1)])
        except NcclFaultError as error:
            caught.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: channel._in_call_since_s is not None)
    return thread, caught


def test_a_call_that_does_not_return_is_overdue_and_nccl_is_not_asked_meanwhile(ends, clock):
    a, _ = ends
    thread, caught = stuck_call(a)
    a._communicator.error = "would be told"
    assert a.check() == ""
    clock.move_to(106.0)
    assert a.overdue(5.0) == "a call was not over after 5 s"
    a.give_up("stuck")
    a.abort(0.0)  # pulls it out
    thread.join(60)
    assert caught == ["aborted meanwhile"]


def test_a_call_that_ends_in_time_is_not_pulled_away_from(ends):
    a, _ = ends
    thread, caught = stuck_call(a)
    a.give_up("for the test")
    aborting = threading.Thread(target=a.abort, args=(60.0,))
    aborting.start()
    time.sleep(0.05)
    assert a._port.num_aborted == 0
    a._port.call_gate.set()
    for each in (thread, aborting):
        each.join(60)
    assert caught == []
    assert a._port.num_aborted == 1


def test_nccl_is_asked_what_went_wrong_and_no_more_once_it_is_given_up(ends):
    a, _ = ends
    assert a.check() == ""
    a._communicator.error = "remote error"
    assert a.check() == "remote error"
    a.give_up("for the test")
    a.abort(0.0)
    a.abort(0.0)  # the communicator is there no more
    assert a.check() == ""


def test_a_peer_that_exchanges_no_byte_is_waited_for_until_the_deadline(ends):
    a, _ = ends
    started_s = time.monotonic()
    with pytest.raises(NcclFaultError, match="does not exchange a byte"):
        a.warm_up(0.1)
    assert 0.1 <= time.monotonic() - started_s < 30.0


# -- a process' channels ---------------------------------------------------------------------------


@pytest.fixture
def runtime(ends):
    made = NcclRuntime(ends[0]._port, NcclConfig(turn_timeout_s=30.0), MonotonicClock())
    yield made
    made.stop()


def test_the_end_of_a_channel_is_told_once_also_if_it_came_before_anybody_listened(
    ends, runtime, monkeypatch
):
    a, b = ends
    told, aborts = [], []
    start = runtime._helpers.start

    def count(name, *rest):
        aborts.append(name)
        start(name, *rest)

    monkeypatch.setattr(runtime._helpers, "start", count)
    runtime.serve(a, told.append)
    runtime.give_up(a, "first")
    runtime.give_up(a, "second")
    assert told == ["first"]
    runtime.give_up(b, "too early")
    runtime.serve(b, told.append)
    assert told == ["first", "too early"]
    assert aborts == ["nccl-abort"] * 2  # one for each
    assert runtime.num_channels == 0
    wait_until(lambda: a._communicator.is_aborted and b._communicator.is_aborted)


def test_a_process_that_stops_lets_go_of_its_channels_and_its_threads_end(ends):
    a, _ = ends
    runtime, told = NcclRuntime(a._port), []
    runtime.serve(a, told.append)
    runtime.stop()
    assert told == ["the process ends"]
    wait_until(lambda: a._communicator.is_aborted)
    wait_until(lambda: not any(thread.is_alive() for thread in runtime._threads))
    assert not runtime.is_healthy


def test_a_call_that_fails_ends_no_thread(ends, runtime):
    done = threading.Event()
    runtime.submit(lambda: 1 / 0)
    runtime.submit(done.set)
    assert done.wait(60)
    assert runtime.is_healthy
