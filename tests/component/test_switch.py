"""A gateway changes its topology between two steps: streams go on with the same tokens."""

import itertools
import threading

import pytest
import torch

from galerne.errors import ConfigError, NotServingError
from galerne.ids import Epoch
from galerne.topology import LinkTransport
from helpers.fake_nccl import FakeFabric
from helpers.gateways import Collector, request
from helpers.switchable import ShardBook, shape, start_gateway
from helpers.waiting import wait_until
from router.exchange.local import LocalExperts
from router.gateway.switch import NotPreparedError, ShadowMismatchError
from shards.bank import _matrices
from shards.nccl.availability import queues_environment

LOCAL, SHM, GRPC, NCCL = LinkTransport
SAMPLED = {"temperature": 0.8, "seed": 5, "n": 2, "max_tokens": 400}
THREE = ("shard-0", "shard-1", "shard-2")


@pytest.fixture
def book():
    book = ShardBook()
    yield book
    book.close()


@pytest.fixture
def gateway(book):
    host = start_gateway(shape(1), book)
    host.collector = Collector()
    host.hub.publish = host.collector
    host.engine._on_deltas = host.collector
    yield host
    host.stop()


def change(gateway, book, target):
    book.start(target)
    gateway.switch.prepare(target, 60.0)
    compared = gateway.switch.shadow(target.epoch)
    gateway.switch.commit(target.epoch)
    return compared


def run(gateway, request_id, **sampling):
    gateway.engine.submit(request(request_id, **SAMPLED | sampling)).result(60)
    return [gateway.collector.tokens(request_id, choice) for choice in range(2)]


def test_streams_do_not_notice_that_the_topology_changes_under_them(gateway, book):
    want = run(gateway, "still")
    targets = [
        shape(2, SHM, THREE, max_num_seqs=2),
        shape(3, GRPC, ("shard-3", "shard-4", "shard-5", "shard-6"), replicas=2, row_budget=64),
        shape(4, LOCAL),
        shape(5, SHM, ("shard-8", "shard-9"), num_micro_batches=2),
    ]
    done = threading.Event()
    got = []

    def load():
        for number in itertools.count():
            got.append(run(gateway, f"moved-{number}"))
            if done.is_set():
                return

    loader = threading.Thread(target=load)
    loader.start()
    for target in targets:
        before = len(got)
        assert change(gateway, book, target) > 0
        assert gateway.switch.topology == target
        assert gateway.describe().epoch == target.epoch
        wait_until(lambda before=before: len(got) >= before + 2)
    done.set()
    loader.join(60)
    assert all(tokens == want for tokens in got)


def test_streams_go_from_gpu_to_gpu_and_back_with_the_same_tokens(gateway, book, monkeypatch):
    """Each epoch has communicators of its own, made while it is prepared."""
    fabric = FakeFabric()
    monkeypatch.setattr("shards.nccl.process.open_port", lambda *, trusts_network: fabric.port())
    for name, value in queues_environment({}).items():  # as every actor has it
        monkeypatch.setenv(name, value)
    want = run(gateway, "still")
    targets = [
        shape(2, NCCL, THREE),
        shape(3, NCCL, ("shard-3", "shard-4"), num_micro_batches=2, row_budget=16),
        shape(4, LOCAL),
    ]
    for target in targets:
        before = fabric.num_bytes
        change(gateway, book, target)
        assert run(gateway, f"moved-{target.epoch}") == want
        assert (fabric.num_bytes > before + 100_000) is (target.transport is NCCL)
    assert fabric.mismatches == []
    wait_until(lambda: not gateway._built.nccl.num_links)


def test_a_topology_by_nccl_is_refused_where_there_is_none_and_the_old_one_serves_on(gateway, book):
    with pytest.raises(ConfigError, match="transport=nccl: NCCL cannot be used: cupy is not inst"):
        gateway.switch.prepare(shape(2, NCCL, THREE), 5.0)
    assert gateway.switch.topology.epoch == 1
    assert run(gateway, "after")


def test_nothing_changes_before_the_commit_and_an_abort_leaves_nothing(gateway, book):
    target = shape(2, SHM, THREE)
    book.start(target)
    serving = gateway.switch.topology
    gateway.switch.prepare(target, 60.0)
    assert gateway.switch.topology == serving
    assert isinstance(gateway._built.runner.exchange, LocalExperts)
    gateway.switch.abort(target.epoch)
    gateway.switch.abort(target.epoch)
    with pytest.raises(NotPreparedError, match="epoch 2 is not prepared; 1 serves"):
        gateway.switch.commit(target.epoch)
    with pytest.raises(NotPreparedError):
        gateway.switch.shadow(target.epoch)
    assert run(gateway, "after")


def test_a_shard_that_does_not_come_ends_the_preparation_by_name(gateway, book):
    target = shape(2, SHM, THREE)
    book.start(target, only=THREE[:2])
    with pytest.raises(NotServingError, match="no link to shard-2"):
        gateway.switch.prepare(target, 0.5)
    assert gateway.switch.topology.epoch == 1


def test_a_placement_that_computes_other_bits_is_found_by_the_shadow(gateway, book):
    target = shape(2, GRPC, THREE)
    book.start(target)
    gateway.switch.prepare(target, 60.0)
    bank = book.hosts["shard-1"]._bank
    layer, expert = max(bank.resident)
    wrong = bank._checkpoint.expert(layer, expert - 1)
    bank.layers[layer].add(expert, *_matrices(wrong, bank._held, torch.bfloat16))
    with pytest.raises(ShadowMismatchError, match=f"expert {expert} of layer {layer} gives other"):
        gateway.switch.shadow(target.epoch)
    gateway.switch.abort(target.epoch)
    assert run(gateway, "after")


def test_a_commit_may_be_repeated_and_a_new_preparation_replaces_the_old(gateway, book):
    first, second = shape(2, SHM, THREE), shape(3, LOCAL)
    book.start(first)
    gateway.switch.prepare(first, 60.0)
    gateway.switch.prepare(second, 60.0)
    with pytest.raises(NotPreparedError):
        gateway.switch.commit(Epoch(2))
    gateway.switch.commit(Epoch(3))
    gateway.switch.commit(Epoch(3))
    assert gateway.switch.topology == second


def test_a_shadow_whose_shard_goes_silent_ends_and_serving_goes_on(gateway, book, monkeypatch):
    monkeypatch.setattr("router.gateway.switch.PROBE_PATIENCE_S", 0.3)
    target = shape(2, GRPC, THREE)
    book.start(target)
    gateway.switch.prepare(target, 60.0)
    book.stop("shard-2")
    with pytest.raises(Exception, match="shard-2"):
        gateway.switch.shadow(target.epoch)
    assert run(gateway, "after")


def test_a_commit_whose_caller_has_left_does_not_happen_later(gateway, book):
    target = shape(2, SHM, THREE)
    book.start(target)
    gateway.switch.prepare(target, 60.0)
    is_free, has_left = threading.Event(), threading.Event()
    gateway.engine.between_steps(is_free.wait)  # as a step that takes long
    commit = threading.Thread(target=gateway.switch.commit, args=(target.epoch, has_left))
    commit.start()
    has_left.set()
    is_free.set()
    commit.join(60)
    assert gateway.switch.topology.epoch == 1
    gateway.switch.commit(target.epoch)
    assert gateway.switch.topology == target


def begin(gateway, request_id):
    """A stream that runs."""
    gateway.engine.submit(request(request_id, **SAMPLED)).result(60)
    gateway.collector.wait(request_id, tokens=10)


def end(gateway, request_id):
    return [gateway.collector.tokens(request_id, choice) for choice in range(2)]


def test_a_step_that_waits_for_shards_that_have_left_is_done_again_after_the_commit(gateway, book):
    want = run(gateway, "still")
    change(gateway, book, shape(2, SHM, THREE))
    target = shape(3, LOCAL)
    gateway.switch.prepare(target, 60.0)
    begin(gateway, "moved")
    for shard in THREE:
        book.stop(shard)
    wait_until(lambda: gateway.engine.unready_reason() is not None)
    gateway.switch.commit(target.epoch)
    assert end(gateway, "moved") == want
    assert gateway.engine.metrics.dropped_steps._value.get() == 1
    assert gateway.engine.unready_reason() is None


@pytest.mark.parametrize("transport", [SHM, GRPC])
def test_steps_of_a_retired_epoch_are_done_again_in_the_next_one(gateway, book, transport):
    want = run(gateway, "still")
    change(gateway, book, shape(2, transport, THREE))
    begin(gateway, "moved")
    target = shape(3, transport, THREE)
    book.replace_epochs(target)
    wait_until(lambda: gateway.engine.unready_reason() is not None)
    assert "topology is retired" in gateway.engine.unready_reason()
    gateway.switch.prepare(target, 60.0)
    gateway.switch.commit(target.epoch)
    assert end(gateway, "moved") == want
    assert gateway.engine.unready_reason() is None
