"""Shards in processes of their own behind shared memory: killed, hung, back again."""

import time
from contextlib import contextmanager

import pytest
import torch

from galerne.errors import ShardUnavailableError
from galerne.ids import ShardId
from helpers.cluster import TOKEN, create_shm, hello
from helpers.exchange_frames import (
    FAST,
    assert_exchanges,
    create_routing,
    create_tokens,
    expected_rows,
    wait_for_links,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.shard_process import ShardProcess
from router.exchange.deadline import ExchangeConfig
from router.exchange.links import LinkState
from shards.shm.rings import ring_library

pytestmark = pytest.mark.skipif(ring_library() is None, reason="no native library")

CONFIG = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=5.0)
PATIENT = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=30.0)
SHARD = ShardId("shard-0")


class Processes:
    """Two shards in processes of their own; also the address book."""

    def __init__(self, replicas=1):
        self.replicas = replicas
        self.of = {ShardId(f"shard-{i}"): ShardProcess(i, 2, replicas) for i in range(2)}

    def address_of(self, shard):
        return self.of[shard].address

    def restart(self, index):
        self.of[ShardId(f"shard-{index}")] = ShardProcess(index, 2, self.replicas)


@contextmanager
def exchange_of_processes(config, replicas=1):
    book = Processes(replicas)
    shape = topology(checkpoint().config, list(book.of), replicas=replicas)
    greeting = hello(checkpoint(), shape)
    exchange = exchange_over(create_shm(shape.shards, greeting, TOKEN, book, FAST), shape, config)
    try:
        wait_for_links(exchange, LinkState.UP)
        yield exchange, book
    finally:
        exchange.close()
        for process in book.of.values():
            process.close()


def test_a_killed_shard_is_a_pause_until_its_successor_is_up(bank):
    with exchange_of_processes(PATIENT) as (exchange, book):
        assert_exchanges(exchange, bank)
        book.of[SHARD].pause()
        x, routing = create_tokens(30), create_routing(30)
        away = exchange.begin(0, 0, x, routing)
        book.of[SHARD].kill()
        book.restart(0)
        assert torch.equal(away.wait(), expected_rows(bank, 0, x, routing))
        for seed in range(5):
            assert_exchanges(exchange, bank, seed)


def test_a_shard_that_hangs_without_replica_fails_the_call_by_name_and_comes_back(bank):
    with exchange_of_processes(CONFIG) as (exchange, book):
        assert_exchanges(exchange, bank)
        book.of[SHARD].pause()
        with pytest.raises(ShardUnavailableError, match="shard-0"):
            assert_exchanges(exchange, bank)
        book.of[SHARD].resume()
        wait_for_links(exchange, LinkState.UP)
        for seed in range(5):
            exchange.start_step(seed)
            assert_exchanges(exchange, bank, seed)


def test_a_shard_that_hangs_with_a_replica_costs_a_pause_and_no_call(bank, record_property):
    with exchange_of_processes(PATIENT, replicas=2) as (exchange, book):
        assert_exchanges(exchange, bank)
        book.of[SHARD].pause()
        started = time.monotonic()
        for seed in range(5):
            assert_exchanges(exchange, bank, seed)
        record_property("pause_s", time.monotonic() - started)
        assert exchange.links[SHARD] is LinkState.SUSPECT
        book.of[SHARD].resume()
        wait_for_links(exchange, LinkState.UP)
