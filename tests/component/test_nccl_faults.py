"""Faults of links by NCCL: each costs one link its speed, and no frame."""

import logging
import time
from contextlib import closing, contextmanager

import pytest
import torch

from galerne.frame import BY_NCCL, FrameHeader, FrameKind, Section, encode
from galerne.ids import ShardId
from helpers.cluster import Shards
from helpers.exchange_frames import (
    assert_answers,
    assert_served,
    create_frame,
    receive,
    result_of,
    wait_until,
    wait_up,
)
from helpers.fixture_models import checkpoint, topology
from helpers.nccl_cluster import is_up, nccl_parts, nccl_shards, wait_for_state
from router.exchange.nccl_link import NcclState
from router.exchange.transport import Answer, LinkDown, LinkUp
from shards.nccl.runtime import NcclConfig

SHARD = ShardId("shard-0")
# Patience in tests of what works, none in tests of what gets stuck.
PATIENT = NcclConfig(join_timeout_s=30.0, turn_timeout_s=30.0)
QUICK = NcclConfig(join_timeout_s=30.0, turn_timeout_s=0.3)
LATER = NcclConfig(join_timeout_s=2.0, turn_timeout_s=5.0)  # some join in time
HASTY = NcclConfig(join_timeout_s=0.3, turn_timeout_s=5.0)


def shape_of(*shards):
    return topology(checkpoint().config, shards or ["shard-0"])


@contextmanager
def linked(*shards, config=QUICK):
    shape = shape_of(*shards)
    with nccl_shards(shape, config) as (served, create), closing(create(shape, served)) as made:
        wait_up(made, len(shape.shards))
        assert is_up(made)
        yield made, create.__self__, served


def frames_for(served, shard, count, num_tokens=3):
    experts = served.shape.placement.experts_of(shard)[0]
    return [create_frame(shard, experts, n, num_tokens=num_tokens) for n in range(count)]


def assert_all_answered(transport, frames, bank):
    events = receive(transport, len(frames))
    assert {type(event) for event in events} == {Answer}
    rows = {(e.shard, e.frame): e.rows for e in events}
    for frame in frames:
        assert torch.equal(rows[frame.shard, frame.frame], result_of(bank, frame))
    assert transport.receive(0.0) is None


# -- a link that stops while it is used ------------------------------------------------------------


@pytest.mark.parametrize("stuck", ["gateway", "shard-0"])
def test_a_turn_that_gets_stuck_is_aborted_on_both_sides_and_its_frames_come_by_the_stream(
    bank, stuck
):
    with linked() as (transport, parts, served):
        assert_answers(transport, bank, 100)
        parts.ports[stuck].call_gate.clear()  # as where the peer's kernel never starts
        frames = frames_for(served, SHARD, 20)
        for frame in frames:
            transport.send(frame)
        assert_all_answered(transport, frames, bank)
        assert transport.states == {SHARD: NcclState.ENDED}
        wait_until(lambda: all(e.is_aborted for p in parts.ports.values() for e in p.ends), "abort")
        assert [port.num_aborted for port in parts.ports.values()] == [1, 1]
        parts.ports[stuck].call_gate.set()
        assert_answers(transport, bank, 101)


@pytest.mark.parametrize("ill", ["gateway", "shard-0"])
def test_an_error_that_nccl_finds_later_ends_the_link_at_both_ends_and_no_frame(bank, ill):
    with linked(config=PATIENT) as (transport, parts, served):
        parts.ports[ill].ends[0].error = "remote process exited"
        wait_for_state(transport, NcclState.ENDED)
        wait_until(lambda: not parts.unaborted, "both ends, by the word of one")
        frames = frames_for(served, SHARD, 10)
        for frame in frames:
            transport.send(frame)
        assert_all_answered(transport, frames, bank)


@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize(
    ("ill", "call"),
    [
        *(("gateway", call) for call in ("group", "send", "receive", "query")),
        *(("shard-0", call) for call in ("group", "send", "receive", "query", "empty")),
    ],
)
def test_a_turn_that_one_end_cannot_call_for_ends_the_link_at_once_and_no_frame(
    bank, ill, call, first
):
    """Were the next one called for all the same, it would bring the rows of another frame."""
    with linked(config=PATIENT) as (transport, parts, served):
        assert_answers(transport, bank, 100)
        started_s = time.monotonic()
        frames = frames_for(served, SHARD, 40)
        for number, frame in enumerate(frames):
            if number == first:
                parts.ports[ill].failing.add(call)
            transport.send(frame)
        assert_all_answered(transport, frames, bank)
        assert transport.states == {SHARD: NcclState.ENDED}
        wait_until(lambda: not parts.unaborted, "the aborts")
        assert time.monotonic() - started_s < PATIENT.turn_timeout_s / 2
        parts.ports[ill].failing.clear()
        assert_answers(transport, bank, 101)


def test_an_abort_in_the_middle_of_many_frames_loses_none(bank):
    for delay_s in (0.0, 0.001, 0.003, 0.01, 0.02):
        with linked() as (transport, parts, served):
            frames = frames_for(served, SHARD, 150)
            for frame in frames[:75]:
                transport.send(frame)
            time.sleep(delay_s)
            parts.ports["gateway"].ends[0].error = "for the test"
            for frame in frames[75:]:
                transport.send(frame)
            assert_all_answered(transport, frames, bank)


def test_an_abort_costs_one_link(bank):
    with linked("shard-0", "shard-1", config=PATIENT) as (transport, parts, served):
        parts.ports["shard-0"].ends[0].error = "for the test"
        wait_for_state(transport, NcclState.ENDED)
        frames = [f for shard in served.shape.shards for f in frames_for(served, shard, 10)]
        for frame in frames:
            transport.send(frame)
        assert_all_answered(transport, frames, bank)
        assert transport.states["shard-1"] is NcclState.UP


def test_the_next_epoch_has_a_communicator_again(bank):
    with linked(config=PATIENT) as (transport, parts, served):
        parts.ports["shard-0"].ends[0].error = "for the test"
        wait_for_state(transport, NcclState.ENDED)
        with closing(parts.transport(served.shape, served)) as following:
            wait_up(following, 1)
            assert is_up(following)
            assert_answers(following, bank)


def test_bytes_that_do_not_fit_hang_and_are_given_up(bank, monkeypatch):
    with linked() as (transport, parts, served):
        empty = parts.ports["gateway"].empty
        monkeypatch.setattr(
            parts.ports["gateway"],
            "empty",
            lambda shape, dtype: empty((shape[0] + 1, shape[1]), dtype),
        )
        frames = frames_for(served, SHARD, 3)
        for frame in frames:
            transport.send(frame)
        assert_all_answered(transport, frames, bank)
        assert parts.fabric.mismatches
        assert transport.states == {SHARD: NcclState.ENDED}


def test_a_thread_that_does_not_come_back_from_an_abort_is_counted(bank):
    with linked() as (transport, parts, _):
        parts.ports["gateway"].abort_gate.clear()
        parts.ports["shard-0"].ends[0].error = "for the test"
        wait_for_state(transport, NcclState.ENDED)
        assert_answers(transport, bank)
        wait_until(lambda: parts.gateway.num_leaked == 1, "the leak to be counted")
        assert parts.gateway.is_healthy
        parts.ports["gateway"].abort_gate.set()
        wait_until(lambda: parts.gateway.num_leaked == 0, "the thread to come back")


# -- a peer that is gone ---------------------------------------------------------------------------


def test_a_shard_that_leaves_is_down_and_its_successor_is_reached_by_the_stream(bank):
    with linked() as (transport, parts, served):
        served.stop(SHARD)
        (event,) = receive(transport, 1)
        assert isinstance(event, LinkDown)
        wait_until(lambda: parts.ports["gateway"].num_aborted == 1, "the abort of our end")
        served.start(SHARD)
        (event,) = receive(transport, 1)
        assert isinstance(event, LinkUp)
        assert transport.states == {SHARD: NcclState.ENDED}
        assert_answers(transport, bank)


def test_a_gateway_that_leaves_is_let_go_of(bank):
    with linked() as (transport, parts, served):
        for frame in frames_for(served, SHARD, 50):
            transport.send(frame)
        transport.close()
        wait_until(lambda: parts.ports["shard-0"].num_aborted == 1, "the abort of the shard's end")
        with closing(parts.transport(served.shape, served, parts.process("next"))) as following:
            wait_up(following, 1)
            assert is_up(following)
            assert_answers(following, bank)


# -- joining ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["gateway", "shard-0"])
def test_a_peer_that_does_not_join_costs_the_deadline_and_a_thread_and_no_link(bank, caplog, late):
    caplog.set_level(logging.WARNING)
    shape = shape_of()
    with nccl_parts(HASTY) as parts:
        served = Shards(shape, nccl=parts.process)
        try:
            parts.ports[late].join_gate.clear()
            started_s = time.monotonic()
            with closing(parts.transport(shape, served)) as transport:
                wait_up(transport, 1)
                assert time.monotonic() - started_s >= HASTY.join_timeout_s
                assert transport.states == {SHARD: NcclState.ENDED}
                assert_answers(transport, bank)
                both = (parts.processes["gateway"], parts.processes["shard-0"])
                wait_until(lambda: [p.num_leaked for p in both] == [1, 1], "both to be counted")
                assert any("did not join in 0.3 s" in r.message for r in caplog.records)
                parts.ports[late].join_gate.set()  # they meet after all: nobody wants it now
                wait_until(lambda: [p.num_leaked for p in both] == [0, 0], "both to come back")
                wait_until(lambda: not parts.unaborted, "both to be let go of")
                assert [port.num_aborted for port in parts.ports.values()] == [1, 1]
                assert_answers(transport, bank, 1)
                assert parts.fabric.num_bytes <= 2
        finally:
            served.close()


def test_a_join_that_fails_leaves_the_link_to_the_stream_at_once(bank):
    shape = shape_of()
    with nccl_parts() as parts:
        served = Shards(shape, nccl=parts.process)
        parts.ports["shard-0"].failing_join = "unhandled system error"
        try:
            with closing(parts.transport(shape, served)) as transport:
                wait_until(lambda: transport.states[SHARD] is NcclState.ENDED, "the end")
                wait_up(transport, 1)
                assert_answers(transport, bank)
        finally:
            served.close()


@pytest.mark.parametrize("call", ["stream", "fence", "empty", "send", "query"])
@pytest.mark.parametrize("ill", ["gateway", "shard-0"])
def test_a_join_that_cuda_fails_is_let_go_of_and_leaves_the_link_to_the_stream(bank, ill, call):
    with nccl_parts(HASTY) as parts:
        served = Shards(shape_of(), nccl=parts.process)
        parts.ports[ill].failing.add(call)
        try:
            with closing(parts.transport(served.shape, served)) as transport:
                wait_up(transport, 1)
                wait_for_state(transport, NcclState.ENDED)  # the well end may have joined before
                parts.ports[ill].failing.clear()
                assert_answers(transport, bank)
                wait_until(lambda: not parts.unaborted, "both to be let go of")
                assert parts.gateway.num_links == 0
        finally:
            served.close()


def test_two_parts_of_one_gpu_are_told_so_and_go_by_the_stream(bank, caplog):
    caplog.set_level(logging.WARNING)
    with nccl_parts(PATIENT) as parts:
        shared = parts.ports["gateway"]
        served = Shards(shape_of(), nccl=lambda part: parts.process(part, open_port=lambda: shared))
        try:
            with closing(parts.transport(served.shape, served)) as transport:
                wait_up(transport, 1)
                assert transport.states == {SHARD: NcclState.ENDED}
                assert any("duplicate GPU" in record.message for record in caplog.records)
                assert_answers(transport, bank)
        finally:
            served.close()


def leak(parts, count):
    """So many threads that wait for peers which never come."""
    runtime = parts.gateway.runtime()
    for _ in range(count):
        runtime.join(parts.fabric.new_id(), 0, lambda channel, problem: None)
    wait_until(lambda: parts.gateway.num_leaked == count, "the leaks")


@pytest.mark.parametrize("has_worked", [True, False])
def test_past_three_leaked_threads_a_process_that_knew_nccl_to_work_should_end(has_worked):
    with nccl_parts(LATER) as parts:
        runtime = parts.gateway.runtime()
        if has_worked:
            joined, number = [], parts.fabric.new_id()
            other = parts.process("other").runtime()
            for rank, each in enumerate((runtime, other)):
                each.join(number, rank, lambda channel, problem: joined.append(channel))
            wait_until(lambda: len(joined) == 2, "both to join")
            assert None not in joined
            for channel in joined:
                runtime.give_up(channel, "for the test")
        leak(parts, 3)
        assert parts.gateway.is_healthy
        parts.gateway.offer()
        leak_one_more = parts.fabric.new_id()
        runtime.join(leak_one_more, 0, lambda channel, problem: None)
        wait_until(lambda: parts.gateway.num_leaked == 4, "the fourth")
        assert parts.gateway.is_healthy is not has_worked
        with pytest.raises(Exception, match="4 threads are stuck"):
            parts.gateway.offer()


def test_a_shard_past_three_leaks_says_that_it_is_dead(bank):
    with linked(config=LATER) as (_, parts, served):
        host, runtime = served.hosts[SHARD], parts.processes["shard-0"].runtime()
        assert host.is_alive
        for _ in range(4):
            runtime.join(parts.fabric.new_id(), 1, lambda channel, problem: None)
        wait_until(lambda: not host.is_alive, "the shard to say so")


# -- a gateway that keeps to no rule ---------------------------------------------------------------


def announcement(transport, *numbers, kind=FrameKind.TURN, **fields):
    header = FrameHeader(kind=kind, incarnation=7, flags=BY_NCCL, epoch=1, frame=5, **fields)
    data = b"".join(n.to_bytes(8, "little") for n in numbers)
    return encode(header, [(Section.TURN, data)])


@pytest.mark.parametrize(
    "fields",
    [
        {"numbers": ()},
        {"numbers": (7,)},
        {"numbers": (1, 99)},
        {"numbers": (1,), "kind": FrameKind.REQUEST, "num_tokens": 1, "num_rows": 1},
        {"numbers": (1,), "kind": FrameKind.REPLY},
    ],
    ids=["no number", "another number", "rows of nothing", "no indices", "another kind"],
)
def test_nonsense_on_the_stream_ends_that_link_only(bank, fields):
    with linked() as (transport, _, served):
        messages = announcement(transport, *fields.pop("numbers"), **fields)
        transport._grpc.push(SHARD, messages, is_answered=False)
        assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
        assert_answers(transport, bank)
        assert_served(served, served.shape, bank)


def test_frames_for_nccl_on_a_link_without_it_are_refused(bank):
    shape = shape_of()
    with nccl_parts() as parts:
        served = Shards(shape, nccl=lambda _: parts.process("far", host="another"))
        try:
            with closing(parts.transport(shape, served)) as transport:
                wait_up(transport, 1)
                transport._grpc.push(SHARD, announcement(transport, 1), is_answered=False)
                assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
                assert_answers(transport, bank)
        finally:
            served.close()
