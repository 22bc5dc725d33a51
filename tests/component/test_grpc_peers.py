"""Real shard servers and peers that keep to no rule."""

import time
from dataclasses import replace
from functools import partial

import grpc
import pytest

from galerne.clock import MonotonicClock
from galerne.frame import FrameHeader, FrameKind
from galerne.hello import read_json
from galerne.ids import ShardId
from helpers.cluster import Shards
from helpers.exchange_frames import (
    Rogue,
    assert_served,
    create_frame,
    open_transport,
    receive,
    wait_up,
)
from helpers.fixture_models import checkpoint
from router.exchange.transport import Answer
from shards.bank import ExpertBank
from shards.host import ShardHost
from shards.metrics import ShardMetrics
from shards.server import ShardIdentity
from shards.wire import RequestRows
from shards.worker import ExpertWorker, Job

SHARD = ShardId("shard-0")
SIZES = checkpoint().config.num_layers, checkpoint().config.num_experts


@pytest.fixture
def rogue(shards, shape):
    with Rogue(shards.address_of(SHARD), shape) as rogue:
        rogue.greet()
        yield rogue


def test_half_close_still_answers_what_was_asked(rogue, bank):
    frames = [create_frame(SHARD, range(4), number) for number in range(20)]
    for frame in frames:
        rogue.send(*rogue.request(frame))
    rogue.half_close()
    assert {rogue.read().header.frame for _ in frames} == set(range(20))
    assert rogue.ended_with()[0] is grpc.StatusCode.OK


def test_a_frame_of_another_epoch_is_refused_and_the_stream_goes_on(rogue):
    frame = create_frame(SHARD, range(4))
    rogue.send(*rogue.request(frame, epoch=9))
    fields = read_json(rogue.read(), FrameKind.REFUSAL)
    assert fields["message"] == "hello refused: epoch is 1 here and 9 at the peer"
    assert fields["is_retryable"] is False
    rogue.send(*rogue.request(frame))
    assert rogue.read().header.kind is FrameKind.REPLY


@pytest.mark.parametrize("fault", ["flip", "truncate", "incarnation", "kind", "lie", "order"])
def test_a_bad_frame_ends_its_own_stream_only(rogue, shards, shape, bank, fault):
    frame = create_frame(SHARD, range(4), num_tokens=12_000 if fault == "order" else 3)
    with open_transport(shape, shards) as transport:
        wait_up(transport, 1)
        message, *rest = rogue.request(frame)
        messages = {
            "flip": [message[:-1] + bytes([message[-1] ^ 1])],
            "truncate": [message[:-1]],
            "incarnation": rogue.request(frame, incarnation=8),
            "kind": rogue.request(frame, kind=FrameKind.REPLY),
            "lie": rogue.request(frame, num_rows=99),
            "order": [*rest, message],
        }[fault]
        rogue.send(*messages)
        code, details = rogue.ended_with()
        assert code is grpc.StatusCode.INVALID_ARGUMENT, details
        transport.send(create_frame(SHARD, range(4), 5))
        (answer,) = receive(transport, 1)
        assert isinstance(answer, Answer)
    assert_served(shards, shape, bank)


def test_an_oversize_message_ends_its_own_stream_only(rogue, shards, shape, bank):
    rogue.send(bytes(3 << 20))
    code, details = rogue.ended_with()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, details
    assert_served(shards, shape, bank)


def test_a_recorded_frame_is_refused_on_the_stream_of_another_start_of_its_gateway(
    shards, shape, bank
):
    frame = create_frame(SHARD, range(4))
    with Rogue(shards.address_of(SHARD), shape) as first:
        first.greet()
        recorded = first.request(frame)
        first.send(*recorded)
        assert first.read().header.kind is FrameKind.REPLY
    with Rogue(shards.address_of(SHARD), shape) as second:
        second.hello = replace(second.hello, incarnation=first.hello.incarnation + 1)
        second.greet()
        second.send(*recorded)
        code, details = second.ended_with()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details == "incarnation differs from the hello's"
    assert_served(shards, shape, bank)


def test_a_stream_that_does_not_greet_is_refused(shards, shape):
    with Rogue(shards.address_of(SHARD), shape) as rogue:
        rogue.send(*rogue.request(create_frame(SHARD, range(4))))
        code, details = rogue.ended_with()
        assert (code, details) == (
            grpc.StatusCode.INTERNAL,
            "REQUEST where HELLO was expected",
        )
    with Rogue(shards.address_of(SHARD), shape) as rogue:
        rogue.half_close()
        assert "before the hello" in rogue.ended_with()[1]


def test_a_wrong_token_is_refused_before_the_hello_is_read(shards, shape):
    with Rogue(shards.address_of(SHARD), shape, token="wrong") as rogue:
        assert rogue.ended_with()[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_slow_reader_holds_up_nobody_and_gets_all_its_answers(rogue, shards, shape, bank):
    frames = [create_frame(SHARD, range(4), n, num_tokens=800) for n in range(60)]
    for frame in frames:  # 12 MB of answers, more than any window between
        rogue.send(*rogue.request(frame))
    for number in range(3):
        assert_served(shards, shape, bank, number)
    assert {rogue.read().header.frame for _ in frames} == set(range(60))


def test_more_frames_than_the_welcome_allows_end_the_stream(rogue, monkeypatch):
    run = ExpertBank.run

    def slow(self, *args):
        time.sleep(1.0)  # or the answers might keep up with the frames
        return run(self, *args)

    monkeypatch.setattr(ExpertBank, "run", slow)
    frame = create_frame(SHARD, range(4), num_tokens=800)
    for number in range(1000):
        rogue.send(*rogue.request(frame, frame=number))
    code, details = rogue.ended_with()
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "more than 256 frames unanswered",
    )


def test_a_gateway_keeps_to_its_credits_even_where_there_is_one(shape, bank, monkeypatch):
    monkeypatch.setattr("shards.host.ShardIdentity", partial(ShardIdentity, max_frames=1))
    shards = Shards(shape)
    try:
        with open_transport(shape, shards) as transport:
            wait_up(transport, 1)
            for number in range(300):
                transport.send(create_frame(SHARD, range(4), number, num_tokens=1))
            events = receive(transport, 300)
            assert {event.frame for event in events} == set(range(300))
    finally:
        shards.close()


# -- bad frames and the compute thread -------------------------------------------------------


def create_job(number, bank, replies, **changes):
    frame = create_frame(SHARD, range(4), number)
    rows = RequestRows(
        frame.tokens, frame.rows.expert_ids, frame.rows.num_rows_by_group, frame.rows.row_token
    )
    num_rows = len(rows.row_token)
    header = FrameHeader(kind=FrameKind.REQUEST, frame=number, num_rows=num_rows)
    return Job(header, rows._replace(**changes), Recorder(replies))


class Recorder:
    """An ``AnswerLink`` that notes which kind of answer a frame got."""

    def __init__(self, replies):
        self.replies = replies

    def answer(self, request, rows, times):
        assert times.service_s > 0
        assert rows.shape == (request.num_rows, checkpoint().config.hidden_size)
        self.replies[request.frame] = FrameKind.REPLY

    def refuse(self, request, error):
        assert str(error)
        self.replies[request.frame] = FrameKind.REFUSAL


@pytest.mark.parametrize("fault", ["unknown expert", "width", "dtype"])
def test_a_bad_frame_does_not_fail_the_frames_that_it_is_merged_with(bank, fault):
    replies = {}
    worker = ExpertWorker(bank, ShardMetrics(*SIZES), MonotonicClock(), 1)
    good = create_job(0, bank, replies)
    changes = {
        "unknown expert": {"expert_ids": good.rows.expert_ids + 1000},
        "width": {"tokens": good.rows.tokens[:, :-1]},
        "dtype": {"tokens": good.rows.tokens.float()},
    }[fault]
    for job in (good, create_job(1, bank, replies, **changes), create_job(2, bank, replies)):
        worker.submit(job)
    worker.start()
    worker.stop()
    assert replies == {0: FrameKind.REPLY, 1: FrameKind.REFUSAL, 2: FrameKind.REPLY}


def test_a_frame_without_rows_is_answered_and_the_shard_lives_on(rogue, shards, shape, bank):
    frame = create_frame(SHARD, range(4))
    nothing = {name: getattr(frame.rows, name)[:0] for name in ("expert_ids", "row_token", "slots")}
    rows = replace(frame.rows, num_rows_by_group=frame.rows.num_rows_by_group[:0], **nothing)
    rogue.send(*rogue.request(replace(frame, rows=rows)))
    reply = rogue.read()
    assert (reply.header.kind, reply.header.num_rows) == (FrameKind.REPLY, 0)
    assert shards.hosts[SHARD].is_alive
    assert_served(shards, shape, bank)


def test_a_stopped_host_is_not_alive(shape):
    shards = Shards(shape)
    host = shards.hosts[SHARD]
    assert isinstance(host, ShardHost)
    assert host.is_alive
    shards.close()
    assert not host.is_alive
