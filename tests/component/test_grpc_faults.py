"""Real shard servers behind bad networks, refused, killed and started again."""

import logging
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from galerne.errors import ShardUnavailableError
from galerne.ids import ShardId
from helpers.cluster import TOKEN, Shards, hello, remote_exchange
from helpers.exchange_frames import (
    FAST,
    assert_exchanges,
    create_frame,
    create_routing,
    create_tokens,
    expected_rows,
    open_transport,
    receive,
    result_of,
    wait_for_links,
    wait_until,
    wait_up,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.tcp_proxy import TcpProxy
from router.exchange.deadline import ExchangeConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.links import LinkState
from router.exchange.transport import LinkDown, LinkUp

CONFIG = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=5.0)
PATIENT = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=20.0)
SHARD = ShardId("shard-0")


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
    not_up = [r.message for r in caplog.records if r.message.startswith("link_not_up")]
    assert sum(said in message for message in not_up) == 1, "said once, not each time"


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
    with remote_exchange(2, config=PATIENT) as (exchange, shards):
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
    with remote_exchange(2, replicas=2, config=PATIENT) as (exchange, shards):
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank)
        shards.stop(SHARD)
        for seed in range(5):
            assert_exchanges(exchange, bank, seed=seed)
        wait_until(lambda: exchange.poll() or exchange.links[SHARD] is LinkState.DOWN, "the loss")


# -- bad networks ----------------------------------------------------------------------------


class ProxyBook:
    """Every shard behind a proxy of its own."""

    def __init__(self, shards):
        self.proxies = {s: TcpProxy(shards.address_of(s)) for s in shards.hosts}

    def address_of(self, shard):
        return self.proxies[shard].address


@contextmanager
def proxied_exchange(num_shards, replicas=1, config=PATIENT):
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


def test_a_stalled_link_makes_a_suspect_and_its_rows_go_to_the_replica(bank, record_property):
    with proxied_exchange(2, replicas=2) as (exchange, proxies):
        assert_exchanges(exchange, bank)
        proxies[SHARD].stall()
        started_s = time.monotonic()
        assert_exchanges(exchange, bank, seed=1)
        record_property("pause_s", time.monotonic() - started_s)
        assert exchange.links[SHARD] is LinkState.SUSPECT
        assert exchange.counters.suspicions >= 1
        assert_exchanges(exchange, bank, seed=2)
        proxies[SHARD].resume()
        wait_for_links(exchange, LinkState.UP)  # it spoke: its late answers came
        assert exchange.counters.late_answers >= 1


def test_a_stalled_link_without_replica_fails_the_call_at_its_limit_by_name(bank):
    with proxied_exchange(1, config=CONFIG) as (exchange, proxies):
        proxies[SHARD].stall()
        started_s = time.monotonic()
        with pytest.raises(ShardUnavailableError, match="shard-0"):
            assert_exchanges(exchange, bank)
        assert time.monotonic() - started_s >= CONFIG.give_up_after_s
        proxies[SHARD].resume()
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank, seed=1)


def test_a_link_that_is_cut_comes_back_and_the_call_completes(bank):
    with proxied_exchange(1) as (exchange, proxies):
        proxies[SHARD].stall()
        x, routing = create_tokens(9), create_routing(9)
        away = exchange.begin(0, 0, x, routing)
        proxies[SHARD].cut()
        proxies[SHARD].resume()
        assert torch.equal(away.wait(), expected_rows(bank, 0, x, routing))
        assert exchange.counters.rows_resent >= routing.size


def test_what_waited_for_credits_when_the_link_broke_is_not_sent_on_the_next(shape, shards):
    book = ProxyBook(shards)
    proxy = book.proxies[SHARD]
    try:
        with open_transport(shape, book) as transport:
            wait_up(transport, 1)
            proxy.stall()
            for number in range(400):
                transport.send(create_frame(SHARD, range(4), number, num_tokens=1))
            proxy.cut()
            proxy.resume()
            assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
            assert transport.receive(0.2) is None
    finally:
        proxy.close()


def test_a_connection_closed_on_one_side_is_a_link_down_and_is_made_anew(bank):
    with proxied_exchange(1) as (exchange, proxies):
        proxies[SHARD].half_close()
        wait_until(
            lambda: exchange.poll() or exchange.links[SHARD] is LinkState.DOWN, "the link down"
        )
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank)


def test_a_slow_link_changes_no_bit(bank):
    with proxied_exchange(2, replicas=2) as (exchange, proxies):
        proxies[SHARD].delay_s = 0.08
        for seed in range(4):
            assert_exchanges(exchange, bank, seed=seed)
