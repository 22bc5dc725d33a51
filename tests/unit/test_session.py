"""The exchange session under a clock moved by hand; its laws are in ``test_session_laws``."""

import numpy as np
import pytest

from galerne.errors import OverloadedError, ProtocolError, ShardUnavailableError
from helpers.session_gateway import (
    TOP_K,
    A,
    B,
    all_to,
    create_config,
    create_gateway,
    create_routing,
)
from router.exchange.deadline import ServiceTime
from router.exchange.links import LinkState
from router.exchange.session import RESEND_POLL_S


def test_killed_shard_with_a_replica_costs_no_time():
    gateway = create_gateway()
    call, frames = gateway.begin(all_to(0, 3))
    assert {frame.shard for frame in frames} == {A, B}
    (again,) = gateway.down(A)
    assert (again.shard, again.attempt, again.rows.expert_ids.tolist()) == (B, 1, [0])
    gateway.answer_all()
    assert gateway.session.is_complete(call)


def test_rows_of_a_killed_shard_without_replica_wait_for_it_and_are_sent_when_it_is_up():
    gateway = create_gateway(num_replicas=1)
    call, frames = gateway.begin(all_to(0, 3))
    gateway.answer(frames[1])
    assert gateway.down(A) == []
    assert gateway.session.unreachable() == [A]
    assert gateway.advance(0.5) == []
    (again,) = gateway.up(A)
    assert (again.shard, again.rows.expert_ids.tolist()) == (A, [0])
    gateway.answer_all()
    assert gateway.session.is_complete(call)
    assert gateway.session.unreachable() == []


def test_call_begun_while_all_links_are_down_is_sent_as_they_come_up():
    gateway = create_gateway(up=False, num_replicas=1)
    call, frames = gateway.begin(all_to(0, 3))
    assert frames == []
    assert [frame.shard for frame in gateway.up(A)] == [A]
    assert [frame.shard for frame in gateway.up(B)] == [B]
    gateway.answer_all()
    assert gateway.session.is_complete(call)
    assert gateway.session.counters.rows_resent == 0


def test_hung_shard_is_suspected_at_its_deadline_and_its_rows_go_to_the_replica():
    gateway = create_gateway()
    call, (first, other) = gateway.begin(all_to(0, 1))
    assert (first.shard, other.shard) == (A, B)
    gateway.answer(other)
    assert gateway.advance(0.19) == []
    (second,) = gateway.advance(0.02)
    assert gateway.session.links.state[A] is LinkState.SUSPECT
    assert second.shard == B
    assert gateway.answer(second) is not None
    assert gateway.answer(first) is None
    counters = gateway.session.counters
    assert counters.duplicate_rows == 1
    assert (counters.rows_resent, counters.rows_hedged) == (1, 1)
    links = counters.by_shard
    assert (links[A].suspicions, links[B].suspicions) == (1, 0)
    assert (links[A].frames, links[B].frames) == (1, 2)
    assert [dict(link.round_trips.read().cumulative)["+Inf"] for link in links.values()] == [1, 2]
    assert gateway.session.is_complete(call)


def test_late_answer_of_a_suspect_counts_and_clears_it():
    gateway = create_gateway(num_shards=1, num_replicas=1)
    call, (frame,) = gateway.begin(all_to(0, 1))
    gateway.advance(0.25)
    assert gateway.session.links.state[A] is LinkState.SUSPECT
    assert gateway.answer(frame) is not None
    assert gateway.session.links.state[A] is LinkState.UP
    assert gateway.session.is_complete(call)


def test_suspect_is_avoided_by_later_calls_until_it_speaks():
    gateway = create_gateway()
    _, frames = gateway.begin(all_to(0, 1))
    (hung,) = [frame for frame in frames if frame.shard == A]
    gateway.advance(0.21)
    for other in list(gateway.away[B]):
        gateway.answer(other)
    assert {frame.shard for frame in gateway.begin(all_to(0, 1))[1]} == {B}
    gateway.answer(hung)
    assert {frame.shard for frame in gateway.begin(all_to(0, 1))[1]} == {A, B}


def test_suspect_without_replica_is_still_asked():
    gateway = create_gateway(num_replicas=1)
    gateway.begin(all_to(0, 1))
    gateway.advance(0.21)
    assert gateway.session.links.state[A] is LinkState.SUSPECT
    _, (frame,) = gateway.begin(all_to(0, 1))
    assert frame.shard == A


def test_epoch_refusal_is_final_and_nothing_more_is_sent_for_the_call():
    gateway = create_gateway()
    call, frames = gateway.begin(all_to(0, 3))
    gateway.refuse(frames[0], ProtocolError("refused by the shard: epoch"))
    with pytest.raises(ProtocolError, match="epoch"):
        gateway.session.is_complete(call)
    assert gateway.down(frames[1].shard) == []
    assert gateway.up(A, B) == []
    assert gateway.advance(5.0) == []
    with pytest.raises(ProtocolError, match="epoch"):
        gateway.session.is_complete(call)


def test_refusal_for_now_goes_to_the_replica_at_once():
    gateway = create_gateway()
    call, frames = gateway.begin(all_to(0, 3))
    (again,) = gateway.refuse(frames[0], OverloadedError("shard-a", 1, 0.0))
    assert again.shard != frames[0].shard
    gateway.answer_all()
    assert gateway.session.is_complete(call)


def test_shard_that_always_refuses_is_asked_again_at_a_bounded_rate():
    gateway = create_gateway(num_shards=1, num_replicas=1)
    call, _ = gateway.begin(all_to(0, 3))
    num_asked = 0
    while gateway.error_of(call) is None:
        for frame in list(gateway.away[A]):
            num_asked += 1
            gateway.refuse(frame, OverloadedError("shard-a", 1, 0.0))
        gateway.advance(0.001)
    assert isinstance(gateway.error_of(call), ShardUnavailableError)
    assert 2 < num_asked < 2 + 2.0 / RESEND_POLL_S


def test_shard_that_refused_once_is_asked_again_though_another_refuses_for_ever():
    gateway = create_gateway()
    call, _ = gateway.begin(all_to(0, 1))
    gateway.refuse(gateway.away[B][0], OverloadedError("shard-b", 1, 0.0))
    for _ in range(4):
        for frame in list(gateway.away[A]):
            gateway.refuse(frame, OverloadedError("shard-a", 1, 0.0))
        for frame in list(gateway.away[B]):
            gateway.answer(frame)
        gateway.advance(RESEND_POLL_S)
    assert gateway.session.is_complete(call)


@pytest.mark.parametrize("calls", [[(0, 3)], [(0, 1), (3, 4)]], ids=["a call's", "calls'"])
def test_rows_that_are_refused_for_ever_do_not_keep_the_budget_from_others(calls):
    config = create_config(resend_burst_rows=1, resend_rows_per_s=20.0, resend_share=0.0)
    gateway = create_gateway(num_replicas=1, config=config)  # A has experts 0 to 2
    for experts in calls:
        gateway.begin(all_to(*experts))
    for frame in [*gateway.away[A], *gateway.away[B]]:
        gateway.refuse(frame, OverloadedError(frame.shard, 1, 0.0))
    for _ in range(12):  # in which the budget grows by a row each
        for frame in list(gateway.away[A]):
            gateway.refuse(frame, OverloadedError("shard-a", 1, 0.0))
        for frame in list(gateway.away[B]):
            gateway.answer(frame)
        gateway.advance(RESEND_POLL_S)
    for call, expert_ids in gateway.routing.items():
        assert gateway.times_filled[call].tolist() == (expert_ids.reshape(-1) >= 3).tolist()


def test_answer_with_too_few_rows_is_asked_of_the_replica():
    gateway = create_gateway()
    call, frames = gateway.begin(all_to(0, 1, num_tokens=3))
    assert gateway.wrong_rows(frames[0], 2) is None
    (again,) = gateway.advance(RESEND_POLL_S)
    assert again.shard != frames[0].shard
    gateway.answer_all()
    assert gateway.session.is_complete(call)


def test_rows_resent_already_are_not_resent_when_the_hung_shard_dies():
    gateway = create_gateway()
    call, _ = gateway.begin(all_to(0, 1))
    gateway.advance(0.05)
    for other in list(gateway.away[B]):
        gateway.answer(other)
    assert [frame.shard for frame in gateway.advance(0.17)] == [B]
    assert gateway.down(A) == []
    gateway.answer_all()
    assert gateway.session.is_complete(call)


def test_an_overdue_frame_is_doubted_once():
    gateway = create_gateway()
    gateway.begin(all_to(0, 1))
    gateway.answer(gateway.away[B][0])
    assert len(gateway.advance(0.21)) == 1
    for _ in range(3):  # another call's deadlines wake the session
        gateway.now_s += 0.01
        assert gateway.on_time() == []


def test_without_budget_suspicion_resends_nothing_but_a_death_does():
    config = create_config(resend_burst_rows=0, resend_rows_per_s=0.0, resend_share=0.0)
    gateway = create_gateway(config=config)
    call, _ = gateway.begin(all_to(0, 1))
    for other in list(gateway.away[B]):
        gateway.answer(other)
    assert gateway.advance(1.0) == []
    assert [frame.shard for frame in gateway.down(A)] == [B]
    gateway.answer_all()
    assert gateway.session.is_complete(call)


def test_sound_traffic_earns_the_budget_for_resends():
    config = create_config(resend_burst_rows=10, resend_rows_per_s=0.0, resend_share=0.1)
    gateway = create_gateway(config=config)
    gateway.begin(all_to(0, 1, num_tokens=40))
    gateway.advance(1.9)
    # 10 at first, never more at a time; every row resent earns a tenth of the next
    assert 10 <= gateway.rows_resent <= 12


def test_an_overdue_frame_is_not_asked_of_the_same_shard_twice_while_its_link_stands():
    gateway = create_gateway(num_shards=1, num_replicas=1)
    call, (frame,) = gateway.begin(all_to(0, 1))
    assert gateway.advance(1.5) == []
    gateway.answer(frame)  # slow, not dead: its late answer counts
    assert gateway.session.is_complete(call)
    assert gateway.rows_resent == 0


def test_rows_of_a_frame_are_cut_to_the_row_budget():
    gateway = create_gateway(num_shards=1, num_replicas=1, row_budget=8)
    _, frames = gateway.begin(create_routing(1, 20))
    assert [len(frame.rows.slots) for frame in frames] == [8, 8, 8, 8, 8]


def test_call_ends_with_the_names_of_the_shards_that_gave_no_answer():
    gateway = create_gateway(num_replicas=1)
    call, frames = gateway.begin(all_to(0, 3))
    (other,) = [frame for frame in frames if frame.shard == B]
    gateway.answer(other)
    gateway.advance(1.99)
    assert gateway.error_of(call) is None
    gateway.advance(0.02)
    error = gateway.error_of(call)
    assert isinstance(error, ShardUnavailableError)
    assert error.shard_id == A
    assert 2.0 <= error.waited_s < 2.01


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "failed"])
def test_call_that_is_over_but_not_ended_wakes_nobody(is_complete):
    gateway = create_gateway(num_shards=1, num_replicas=1)
    over, (frame,) = gateway.begin(all_to(0, 1))
    if is_complete:
        gateway.answer(frame)
    else:
        gateway.advance(2.1)
    gateway.begin(all_to(0, 1))
    gateway.advance(1.5)
    assert gateway.session.next_deadline_s() > gateway.now_s
    gateway.session.end(over)


def test_no_tokens_are_complete_at_once():
    gateway = create_gateway()
    call, frames = gateway.begin(np.zeros((0, TOP_K), dtype=np.int64))
    assert frames == []
    assert gateway.session.is_complete(call)


def test_micro_batches_are_apart():
    gateway = create_gateway(num_shards=1, num_replicas=1)
    first, (frame,) = gateway.begin(all_to(0, 1), layer=0)
    second, (other,) = gateway.begin(all_to(2, 3), layer=1)
    assert gateway.answer(other) is not None
    assert gateway.session.is_complete(second)
    assert not gateway.session.is_complete(first)
    gateway.session.end(first)
    assert gateway.answer(frame) is None
    assert gateway.session.counters.late_answers == 1


# -- deadlines -------------------------------------------------------------------------------


def test_unknown_shard_gets_the_cap_and_a_known_one_its_own_time():
    time = ServiceTime(create_config())
    assert time.deadline_s(1, 0) == 0.2
    time.observe(4, 0.01)
    assert time.deadline_s(4, 0) == pytest.approx(0.08)
    assert time.deadline_s(4, 1) == pytest.approx(0.16)
    assert time.deadline_s(4, 2) == 0.2
    time = ServiceTime(create_config())
    time.observe(4, 0.0001)
    assert time.deadline_s(4, 0) == 0.05


def test_any_number_of_attempts_keeps_the_deadline_finite():
    time = ServiceTime(create_config())
    time.observe(1, 0.0)
    assert time.deadline_s(1, 0xFFFF) == 0.05
    time.observe(1, 1.0)
    assert time.deadline_s(1, 0xFFFF) == 0.2
