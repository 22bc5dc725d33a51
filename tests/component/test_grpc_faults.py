"""Real shard servers behind bad networks, with bad peers, killed and started again."""

import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import grpc
import pytest
import torch

from galerne.clock import MonotonicClock
from galerne.errors import ShardUnavailableError
from galerne.frame import FrameHeader, FrameKind
from galerne.hello import read_json
from galerne.ids import ShardId
from helpers.cluster import TOKEN, Shards, grpc_exchange, hello
from helpers.exchange_frames import (
    Rogue,
    all_experts,
    create_frame,
    create_routing,
    create_tokens,
    expected_rows,
    receive,
    result_of,
    wait_for_links,
    wait_until,
    wait_up,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.tcp_proxy import TcpProxy
from router.exchange.deadline import ExchangeConfig
from router.exchange.grpc_link import LinkConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.links import LinkState
from router.exchange.transport import Answer, LinkDown, LinkUp
from shards.host import ShardHost
from shards.metrics import ShardMetrics
from shards.server import ShardIdentity
from shards.wire import RequestRows
from shards.worker import ExpertWorker, Job

FAST = LinkConfig(connect_timeout_s=1.0, backoff_min_s=0.01, backoff_max_s=0.05)
CONFIG = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=2.0)
PATIENT = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=20.0)
SHARD = ShardId("shard-0")


@pytest.fixture(scope="module")
def bank():
    return all_experts()


@pytest.fixture(scope="module")
def shape():
    return topology(checkpoint().config)


@pytest.fixture(scope="module")
def shards(shape):
    shards = Shards(shape)
    yield shards
    shards.close()


@contextmanager
def open_transport(shape, book, token=TOKEN, **hello_changes):
    greeting = replace(hello(checkpoint(), shape), **hello_changes)
    transport = GrpcTransport(shape.shards, greeting, token, book, FAST)
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture
def rogue(shards, shape):
    with Rogue(shards.address_of(SHARD), shape) as rogue:
        rogue.greet()
        yield rogue


def assert_served(shards, shape, bank, number=0):
    """Another gateway's stream works."""
    with open_transport(shape, shards) as transport:
        wait_up(transport, 1)
        frame = create_frame(SHARD, range(4), number)
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))


def assert_exchanges(exchange, bank, layer=0, seed=0):
    x, routing = create_tokens(9, seed), create_routing(9, seed)
    result = exchange.begin(layer, 0, x, routing).wait()
    assert torch.equal(result, expected_rows(bank, layer, x, routing))


# -- who is let in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": "wrong"}, "UNAUTHENTICATED: cluster token"),
        ({"fingerprint": "other"}, "FAILED_PRECONDITION: hello refused: fingerprint"),
        ({"numerics_profile": "avx2"}, "FAILED_PRECONDITION: hello refused: numerics_profile"),
        ({"epoch": 9}, "FAILED_PRECONDITION: hello refused: epoch is 1 here and 9 at the peer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_gateway_that_differs_never_gets_a_link_and_both_sides_log_why(
    shards, shape, caplog, change, said
):
    caplog.set_level(logging.WARNING)
    with open_transport(shape, shards, **change) as transport:
        wait_until(lambda: said in caplog.text, said)
        assert transport.receive(0.1) is None
    refused = [r.message for r in caplog.records if r.name == "shards.server"]
    assert refused[0].startswith("hello_refused")
    assert sum("link_not_up" in r.message for r in caplog.records) == 1, "said once, not each time"


def test_another_shard_at_the_address_is_refused_by_name(shards, shape, caplog):
    stranger = replace(shape, shards=(ShardId("shard-9"),))

    class Book:
        def address_of(self, _):
            return shards.address_of(SHARD)

    with open_transport(stranger, Book()) as transport:
        wait_until(lambda: "shard-0 answers where shard-9" in caplog.text, "the refusal")
        assert transport.receive(0.0) is None


def test_an_address_book_that_fails_does_not_end_the_other_links(shape, shards, bank, caplog):
    both = replace(shape, shards=(SHARD, ShardId("shard-9")))

    class Book:
        def address_of(self, shard):
            if shard != SHARD:
                raise RuntimeError("controller is gone")
            return shards.address_of(shard)

    with open_transport(both, Book()) as transport:
        assert receive(transport, 1) == [LinkUp(SHARD)]
        wait_until(lambda: "controller is gone" in caplog.text, "the failure in the log")
        frame = create_frame(SHARD, range(4))
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))


# -- shards that go and come back ------------------------------------------------------------


def test_a_killed_shard_is_reported_down_and_its_successor_on_a_new_port_up(shape, bank):
    shards = Shards(shape)
    try:
        with open_transport(shape, shards) as transport:
            wait_up(transport, 1)
            before = shards.address_of(SHARD)
            shards.stop(SHARD)
            (event,) = receive(transport, 1)
            assert isinstance(event, LinkDown)
            assert event.reason
            transport.send(create_frame(SHARD, range(4)))  # dropped, as the contract says
            shards.start(SHARD)
            assert shards.address_of(SHARD) != before
            assert receive(transport, 1) == [LinkUp(SHARD)]
            frame = create_frame(SHARD, range(4), 1)
            transport.send(frame)
            (answer,) = receive(transport, 1)
            assert answer.frame == 1
            assert torch.equal(answer.rows, result_of(bank, frame))
    finally:
        shards.close()


def test_a_call_survives_the_death_of_every_shard_and_completes_on_their_successors(bank):
    with grpc_exchange(2, config=PATIENT) as (exchange, shards):
        wait_for_links(exchange, LinkState.UP)
        x, routing = create_tokens(30), create_routing(30)
        for shard in list(shards.hosts):
            shards.stop(shard)
        away = exchange.begin(0, 0, x, routing)
        wait_for_links(exchange, LinkState.DOWN)
        assert set(exchange.unreachable()) == {"shard-0", "shard-1"}
        for shard in shards.shape.shards:
            shards.start(shard)
        assert torch.equal(away.wait(), expected_rows(bank, 0, x, routing))
        assert exchange.unreachable() == []


def test_with_a_replica_a_killed_shard_costs_no_call(bank):
    with grpc_exchange(2, replicas=2, config=CONFIG) as (exchange, shards):
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank)
        shards.stop(SHARD)
        for seed in range(5):
            started_s = time.monotonic()
            assert_exchanges(exchange, bank, seed=seed)
            assert time.monotonic() - started_s < 1.0
        assert exchange.links[SHARD] is LinkState.DOWN


# -- bad networks ----------------------------------------------------------------------------


class ProxyBook:
    """Every shard behind a proxy of its own."""

    def __init__(self, shards):
        self.proxies = {s: TcpProxy(shards.address_of(s)) for s in shards.hosts}

    def address_of(self, shard):
        return self.proxies[shard].address


@contextmanager
def proxied_exchange(num_shards, replicas=1, config=CONFIG):
    shape = topology(
        checkpoint().config, [f"shard-{i}" for i in range(num_shards)], replicas=replicas
    )
    shards = Shards(shape)
    book = ProxyBook(shards)
    transport = GrpcTransport(shape.shards, hello(checkpoint(), shape), TOKEN, book, FAST)
    exchange = exchange_over(transport, shape, config)
    try:
        wait_for_links(exchange, LinkState.UP)
        yield exchange, book.proxies
    finally:
        exchange.close()
        for proxy in book.proxies.values():
            proxy.close()
        shards.close()


def test_a_stalled_link_makes_a_suspect_and_its_rows_go_to_the_replica_in_time(bank):
    with proxied_exchange(2, replicas=2) as (exchange, proxies):
        assert_exchanges(exchange, bank)
        proxies[SHARD].stall()
        started_s = time.monotonic()
        assert_exchanges(exchange, bank, seed=1)
        assert time.monotonic() - started_s < 0.2 + 0.5
        assert exchange.links[SHARD] is LinkState.SUSPECT
        assert exchange.counters.suspicions >= 1
        started_s = time.monotonic()
        assert_exchanges(exchange, bank, seed=2)
        assert time.monotonic() - started_s < 0.2
        proxies[SHARD].resume()
        wait_for_links(exchange, LinkState.UP)  # it spoke: its late answers came
        assert exchange.counters.late_answers >= 1


def test_a_stalled_link_without_replica_fails_the_call_at_its_limit_by_name(bank):
    with proxied_exchange(1) as (exchange, proxies):
        proxies[SHARD].stall()
        started_s = time.monotonic()
        with pytest.raises(ShardUnavailableError, match="shard-0"):
            assert_exchanges(exchange, bank)
        assert 2.0 <= time.monotonic() - started_s < 2.5
        proxies[SHARD].resume()
        assert_exchanges(exchange, bank, seed=1)


def test_a_link_that_is_cut_comes_back_and_the_call_completes(bank):
    with proxied_exchange(1, config=PATIENT) as (exchange, proxies):
        proxies[SHARD].stall()
        x, routing = create_tokens(9), create_routing(9)
        away = exchange.begin(0, 0, x, routing)
        proxies[SHARD].cut()
        proxies[SHARD].resume()
        assert torch.equal(away.wait(), expected_rows(bank, 0, x, routing))
        assert exchange.counters.rows_resent >= routing.size


def test_a_connection_closed_on_one_side_is_a_link_down_and_is_made_anew(bank):
    with proxied_exchange(1, config=PATIENT) as (exchange, proxies):
        proxies[SHARD].half_close()
        wait_until(
            lambda: exchange.poll() or exchange.links[SHARD] is LinkState.DOWN, "the link down"
        )
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank)


def test_a_slow_link_changes_no_bit(bank):
    with proxied_exchange(2, replicas=2, config=PATIENT) as (exchange, proxies):
        proxies[SHARD].delay_s = 0.08
        for seed in range(4):
            assert_exchanges(exchange, bank, seed=seed)


# -- bad peers -------------------------------------------------------------------------------


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


def test_more_frames_than_the_welcome_allows_end_the_stream(rogue):
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
    header = FrameHeader(kind=FrameKind.REQUEST, frame=number)
    return Job(header, rows._replace(**changes), partial(replies.__setitem__, number))


@pytest.mark.parametrize("fault", ["unknown expert", "width", "dtype"])
def test_a_bad_frame_does_not_fail_the_frames_that_it_is_merged_with(bank, fault):
    replies = {}
    worker = ExpertWorker(bank, ShardMetrics(), MonotonicClock(), 1)
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
    kinds = {number: messages[0][8] for number, messages in replies.items()}
    assert kinds == {0: FrameKind.REPLY, 1: FrameKind.REFUSAL, 2: FrameKind.REPLY}


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
