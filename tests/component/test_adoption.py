"""Surviving shards adopt the experts of lost ones, and release them; epochs come and go."""

import threading
import time
from contextlib import contextmanager

import grpc
import pytest
import torch

import shards.control
from galerne.errors import GalerneError
from galerne.hello import TOKEN_METADATA_KEY
from galerne.ids import ShardId
from galerne.topology import Placement
from galerne.v1 import internal_pb2 as internal
from galerne.v1 import internal_pb2_grpc
from helpers.cluster import TOKEN, create_shm, remote_exchange
from helpers.exchange_frames import (
    create_routing,
    create_tokens,
    expected_rows,
    wait_for_links,
    wait_until,
)
from helpers.fixture_models import checkpoint
from router.exchange.deadline import ExchangeConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.links import LinkState
from shards.residency import Residency, as_message, as_set, by_layer
from shards.shm.rings import ring_library

CONFIG = ExchangeConfig(deadline_floor_s=0.05, deadline_cap_s=0.2, give_up_after_s=20.0)
LOST = ShardId("shard-1")
ways = pytest.mark.parametrize(
    "create",
    [
        GrpcTransport,
        pytest.param(
            create_shm, marks=pytest.mark.skipif(ring_library() is None, reason="no library")
        ),
    ],
    ids=["grpc", "shm"],
)


def call(shards, shard, method, request, timeout=20):
    with grpc.insecure_channel(shards.address_of(shard)) as channel:
        stub = internal_pb2_grpc.ExpertServiceStub(channel)
        metadata = ((TOKEN_METADATA_KEY, TOKEN),)
        return getattr(stub, method)(request, metadata=metadata, timeout=timeout)


def adopt(shards, shard, experts):
    return call(shards, shard, "Adopt", internal.AdoptRequest(experts=as_message(experts)))


def describe(shards, shard):
    return call(shards, shard, "DescribeShard", internal.DescribeShardRequest())


def placed_on(shards, shard):
    return as_set(shards.shape.placement.experts_of(shard))


@contextmanager
def cluster(create=GrpcTransport, num_shards=3, replicas=1):
    with remote_exchange(num_shards, create=create, config=CONFIG, replicas=replicas) as pair:
        wait_for_links(pair[0], LinkState.UP)
        yield pair


def assert_exchange(exchange, bank, seed, meanwhile=lambda: None, layer=0):
    """One exchange that touches every expert."""
    x, routing = create_tokens(64, seed), create_routing(64, seed)
    exchange.start_step(seed)
    pending = exchange.begin(layer, 0, x, routing)
    task = threading.Thread(target=meanwhile)
    task.start()
    rows = pending.wait()
    task.join()
    assert torch.equal(rows, expected_rows(bank, layer, x, routing))


@ways
def test_a_call_that_waits_for_a_lost_shard_is_answered_by_who_adopts_its_experts(create, bank):
    with cluster(create) as (exchange, shards):
        half = sorted(placed_on(shards, LOST))
        shards.stop(LOST)

        def adopted():
            time.sleep(0.2)
            for survivor, part in (("shard-0", half[::2]), ("shard-2", half[1::2])):
                assert adopt(shards, survivor, part).num_loaded == len(part)

        assert_exchange(exchange, bank, 1, adopted)
        assert exchange.unreachable() == []
        for layer in range(checkpoint().config.num_layers):
            assert_exchange(exchange, bank, 2 + layer, layer=layer)


@ways
def test_a_shard_that_is_back_is_asked_again_and_what_was_adopted_can_go(create, bank):
    with cluster(create) as (exchange, shards):
        before = describe(shards, "shard-0").num_experts
        shards.stop(LOST)
        assert_exchange(
            exchange, bank, 1, lambda: adopt(shards, "shard-0", placed_on(shards, LOST))
        )
        shards.start(LOST)
        wait_for_links(exchange, LinkState.UP)
        assert_exchange(exchange, bank, 2)
        # counted after the answer is sent: may come a moment later than that
        wait_until(lambda: shards.hosts[LOST].describe()["frames"] > 0, "a frame computed there")
        adopt(shards, "shard-0", [])
        assert describe(shards, "shard-0").num_experts == before
        assert not describe(shards, "shard-0").adopted
        for seed in range(3, 8):
            assert_exchange(exchange, bank, seed)


def test_rows_asked_of_an_adopter_that_has_just_released_them_wait_for_another(bank):
    with cluster() as (exchange, shards):
        shards.stop(LOST)
        assert_exchange(
            exchange, bank, 1, lambda: adopt(shards, "shard-0", placed_on(shards, LOST))
        )
        bank_of_adopter = shards.hosts[ShardId("shard-0")]._bank
        bank_of_adopter.drop(by_layer(placed_on(shards, LOST)))  # before the gateway has heard

        def adopted_by_another():
            time.sleep(0.3)
            adopt(shards, "shard-2", placed_on(shards, LOST))

        assert_exchange(exchange, bank, 2, adopted_by_another)


def test_an_adopter_tells_a_gateway_that_connects_later(bank):
    with cluster() as (exchange, shards):
        adopt(shards, "shard-0", placed_on(shards, LOST))
        shards.stop(LOST)
        assert_exchange(exchange, bank, 1)
    with remote_exchange(3, config=CONFIG) as (late, shards):
        wait_for_links(late, LinkState.UP)
        adopt(shards, "shard-2", placed_on(shards, LOST))
        shards.stop(LOST)
        wait_until(lambda: late.poll() or late.links[LOST] is LinkState.DOWN, "the loss")
        assert late.unreachable() == []


def test_experts_of_a_dead_replica_pair_are_adopted_and_others_are_not_needed(bank):
    with cluster(num_shards=3, replicas=2) as (exchange, shards):
        shards.stop("shard-0")
        assert_exchange(exchange, bank, 1)  # every expert has a copy left
        shards.stop("shard-1")
        lost = placed_on(shards, "shard-0") & placed_on(shards, "shard-1")
        assert lost
        assert_exchange(exchange, bank, 2, lambda: adopt(shards, "shard-2", lost))


def test_a_shard_without_memory_refuses_and_serves_on(bank, monkeypatch):
    with cluster() as (exchange, shards):
        monkeypatch.setattr(shards_control(), "available_memory", lambda: 1 << 10)
        with pytest.raises(grpc.RpcError) as refused:
            adopt(shards, "shard-0", placed_on(shards, LOST))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "more experts take" in refused.value.details()
        assert_exchange(exchange, bank, 1)


def shards_control():
    return shards.control


def test_epochs_are_prepared_and_retired_and_their_experts_come_and_go(bank):
    with cluster() as (exchange, shards):
        everything = placed_on(shards, LOST) | placed_on(shards, "shard-0")
        request = internal.PrepareEpochRequest(epoch=2, experts=as_message(everything))
        before = describe(shards, "shard-0")
        change = call(shards, "shard-0", "PrepareEpoch", request)
        assert change.num_loaded == len(everything) - before.num_experts
        assert call(shards, "shard-0", "PrepareEpoch", request).num_loaded == 0
        assert_exchange(exchange, bank, 1)  # the old epoch is served beside
        assert sorted(describe(shards, "shard-0").epochs) == [1, 2]
        retire = internal.RetireEpochsRequest(keep=[1])
        assert call(shards, "shard-0", "RetireEpochs", retire).num_released == change.num_loaded
        assert describe(shards, "shard-0").num_experts == before.num_experts
        assert_exchange(exchange, bank, 2)
        call(shards, "shard-0", "RetireEpochs", internal.RetireEpochsRequest(keep=[2]))
        exchange.start_step(3)
        with pytest.raises(GalerneError, match="epoch"):
            exchange.begin(0, 0, create_tokens(8), create_routing(8)).wait()


def test_the_controls_want_the_token_of_the_cluster(bank):
    with cluster() as (_, shards), grpc.insecure_channel(shards.address_of("shard-0")) as channel:
        stub = internal_pb2_grpc.ExpertServiceStub(channel)
        for method, request in (
            ("Adopt", internal.AdoptRequest()),
            ("PrepareEpoch", internal.PrepareEpochRequest(epoch=5)),
            ("RetireEpochs", internal.RetireEpochsRequest()),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                getattr(stub, method)(request, timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_residency_is_what_epochs_place_and_what_is_adopted_beside():
    one, two, three = frozenset({(0, 1)}), frozenset({(0, 2)}), frozenset({(1, 0)})
    residency = Residency([1], one)
    residency.prepare(2, two)
    residency.adopt(three | one)
    assert residency.adopted == three | one  # gateways of epoch 2 do not know that it is here
    residency.retire([2])
    assert residency.wanted == one | two | three
    residency.adopt(frozenset())
    assert residency.wanted == two


def test_placements_survive_the_way_of_messages():
    placement = Placement(((("a",), ("b",), ("a", "b")),))
    assert as_set(placement.experts_of("a")) == {(0, 0), (0, 2)}
    assert by_layer({(1, 2), (0, 5), (1, 0)}) == {0: [5], 1: [0, 2]}
