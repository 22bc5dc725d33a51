"""The stand-in for NCCL is as strict as what it stands for."""

import threading

import pytest
import torch

from helpers.fake_nccl import FakeFabric
from shards.nccl.port import NcclFaultError


@pytest.fixture
def fabric():
    made = FakeFabric()
    yield made
    made.close()


def pair(fabric):
    """Both ends of a communicator."""
    ports, number = (fabric.port(), fabric.port()), fabric.new_id()
    ends = [None, None]

    def join(rank):
        ends[rank] = ports[rank].join(2, number, rank)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends


def rows(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_a_join_waits_for_all(fabric):
    port, number = fabric.port(), fabric.new_id()
    thread = threading.Thread(target=port.join, args=(2, number, 0), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    fabric.port().join(2, number, 1)
    thread.join(60)
    assert not thread.is_alive()


def test_a_send_ends_with_its_receive_and_not_before(fabric):
    a, b = pair(fabric)
    there, back = a.port.stream(), b.port.stream()
    given, taken = rows(1, 2, 3), rows(0, 0, 0)
    a.send(given.data_ptr(), 3, 1, there)
    sent = there.record()
    assert not sent.is_done
    b.receive(taken.data_ptr(), 3, 0, back)
    assert sent.is_done
    assert taken.tolist() == [1, 2, 3]


def test_two_ends_that_both_send_first_hang_and_in_a_group_they_do_not(fabric):
    for is_grouped in (False, True):
        a, b = pair(fabric)
        events = []
        for end, peer in ((a, 1), (b, 0)):
            out, back = end.port.stream(), end.port.stream()
            held = rows(1), rows(0)
            if is_grouped:
                with end.port.group():
                    end.send(held[0].data_ptr(), 1, peer, out)
                    end.receive(held[1].data_ptr(), 1, peer, back)
            else:
                end.send(held[0].data_ptr(), 1, peer, out)
                end.receive(held[1].data_ptr(), 1, peer, back)
            events += [(out.record(), back.record(), held)]
        assert [e.is_done for event in events for e in event[:2]] == [is_grouped] * 4


def test_what_is_behind_a_stuck_operation_waits_on_every_stream(fabric):
    a, b = pair(fabric)
    first, second, taken = a.port.stream(), a.port.stream(), rows(0)
    given = rows(5)
    a.receive(taken.data_ptr(), 1, 1, first)  # the peer does not send
    a.send(given.data_ptr(), 1, 1, second)
    b.receive(taken.data_ptr(), 1, 0, b.port.stream())
    assert not second.record().is_done


def test_other_sizes_never_match(fabric):
    a, b = pair(fabric)
    there, given, taken = a.port.stream(), rows(1, 2), rows(0)
    a.send(given.data_ptr(), 2, 1, there)
    b.receive(taken.data_ptr(), 1, 0, b.port.stream())
    assert not there.record().is_done
    assert fabric.mismatches == [(2, 1)]


def test_an_abort_frees_its_own_end_and_tells_the_peer_nothing(fabric):
    a, b = pair(fabric)
    streams = a.port.stream(), b.port.stream()
    given = rows(1)
    a.send(given.data_ptr(), 1, 1, streams[0])
    b.send(given.data_ptr(), 1, 0, streams[1])
    a.abort()
    assert [stream.record().is_done for stream in streams] == [True, False]
    b.check()
    with pytest.raises(NcclFaultError, match="after the abort"):
        a.send(given.data_ptr(), 1, 1, streams[0])


def test_an_operation_waits_for_the_events_of_its_stream(fabric):
    a, b = pair(fabric)
    a.port.fences = []
    there, fence, given, taken = a.port.stream(), a.port.fence(), rows(1), rows(0)
    there.wait(fence)
    a.send(given.data_ptr(), 1, 1, there)
    b.receive(taken.data_ptr(), 1, 0, b.port.stream())
    assert taken.item() == 0
    given.fill_(9)
    fence.come()
    assert taken.item() == 9
