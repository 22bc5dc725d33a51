"""What every transport must do. A new one joins by a factory in ``TRANSPORTS``."""

import random
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from galerne.errors import ProtocolError
from helpers.cluster import TOKEN, Shards, create_shm, hello
from helpers.exchange_frames import (
    DTYPE,
    all_experts,
    create_frame,
    create_routing,
    create_tokens,
    expected_rows,
    receive,
    result_of,
    running,
    wait_until,
    wait_up,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.local_transport import LocalTransport
from helpers.nccl_cluster import nccl_shards, no_link_given_up
from helpers.waiting import PATIENCE_S
from router.exchange.grpc_link import LinkConfig
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.transport import Answer, LinkUp, Refusal
from shards.bank import ExpertBank


@contextmanager
def local_factory(shape):
    source = checkpoint()
    banks = {s: ExpertBank(source, shape.placement.experts_of(s), DTYPE) for s in shape.shards}
    yield lambda: LocalTransport(banks)


@contextmanager
def remote_factory(shape, create):
    shards = Shards(shape)
    fast = LinkConfig(backoff_min_s=0.01, backoff_max_s=0.05)
    greeting = hello(checkpoint(), shape)
    try:
        yield lambda: create(shape.shards, greeting, TOKEN, shards, config=fast)
    finally:
        shards.close()


@contextmanager
def nccl_factory(shape):
    with nccl_shards(shape) as (shards, create), no_link_given_up():
        yield lambda: create(shape, shards)


TRANSPORTS = {
    "local": local_factory,
    "grpc": partial(remote_factory, create=GrpcTransport),
    "shm": partial(remote_factory, create=create_shm),
    "nccl": nccl_factory,  # with a stand-in for the GPUs; tests/gpu has the real ones
}


@pytest.fixture(scope="module")
def shape():
    return topology(checkpoint().config, ["shard-0", "shard-1"], row_budget=5)


@pytest.fixture(scope="module")
def bank():
    return all_experts()


@pytest.fixture(scope="module", params=TRANSPORTS)
def create_transport(request, shape):
    with TRANSPORTS[request.param](shape) as factory:
        yield factory


@pytest.fixture
def transport(create_transport, shape):
    transport = create_transport()
    wait_up(transport, len(shape.shards))
    yield transport
    transport.close()


def frame_for(shape, number, **fields):
    shard = shape.shards[number % len(shape.shards)]
    return create_frame(shard, shape.placement.experts_of(shard)[0], number, **fields)


def test_every_shard_is_reported_up_once_before_any_answer(create_transport, shape):
    transport = create_transport()
    events = receive(transport, len(shape.shards))
    assert sorted(event.shard for event in events) == sorted(shape.shards)
    assert all(isinstance(event, LinkUp) for event in events)
    transport.send(frame_for(shape, 0))
    (answer,) = receive(transport, 1)
    assert isinstance(answer, Answer)
    transport.close()


def test_an_answer_has_the_bits_that_the_bank_gives(transport, bank, shape):
    num_layers = checkpoint().config.num_layers
    frames = [
        frame_for(shape, number, num_tokens=num_tokens, layer=number % num_layers)
        for number, num_tokens in enumerate([1, 2, 15, 16, 17, 300])
    ]
    for frame in frames:
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert (answer.shard, answer.frame) == (frame.shard, frame.frame)
        assert answer.rows.dtype is DTYPE
        assert torch.equal(answer.rows, result_of(bank, frame))


def test_answers_depend_neither_on_the_order_of_sending_nor_on_what_else_is_away(
    transport, bank, shape
):
    frames = [frame_for(shape, number, num_tokens=1 + number % 5) for number in range(24)]
    for seed in range(3):
        random.Random(seed).shuffle(frames)
        for frame in frames:
            transport.send(frame)
        rows = {answer.frame: answer.rows for answer in receive(transport, len(frames))}
        for frame in frames:
            assert torch.equal(rows[frame.frame], result_of(bank, frame))


def test_more_frames_than_credits_are_each_answered_once(transport, bank, shape):
    frames = [frame_for(shape, number, num_tokens=1) for number in range(700)]
    for frame in frames:
        transport.send(frame)
    answers = receive(transport, len(frames))
    assert sorted(answer.frame for answer in answers) == list(range(700))
    rows = {answer.frame: answer.rows for answer in answers}
    for frame in frames[::50]:
        assert torch.equal(rows[frame.frame], result_of(bank, frame))
    assert transport.receive(0.0) is None


def test_a_frame_of_several_chunks_is_answered(transport, bank, shape):
    frame = frame_for(shape, 0, num_tokens=12_000)
    assert frame.tokens.nbytes > 1 << 20
    transport.send(frame)
    (answer,) = receive(transport, 1)
    assert torch.equal(answer.rows, result_of(bank, frame))


def test_an_expert_that_is_not_resident_is_refused_by_name_and_nothing_else_is(
    transport, bank, shape
):
    first, second = shape.shards
    foreign = shape.placement.experts_of(second)[0][:2]
    transport.send(frame_for(shape, 0))
    transport.send(create_frame(first, foreign, 1))
    transport.send(frame_for(shape, 2))
    events = {event.frame: event for event in receive(transport, 3)}
    refusal = events.pop(1)
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, ProtocolError)
    assert not refusal.error.is_retryable
    assert "is not resident" in str(refusal.error)
    for number, answer in events.items():
        assert torch.equal(answer.rows, result_of(bank, frame_for(shape, number)))


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.05])
def test_an_empty_receive_ends_at_its_time(transport, timeout_s):
    started_s = time.monotonic()
    assert transport.receive(timeout_s) is None
    waited_s = time.monotonic() - started_s
    assert max(timeout_s, 0.0) * 0.9 <= waited_s < PATIENCE_S


def test_nothing_comes_after_close_and_nothing_is_left_running(create_transport, shape):
    before = running()
    transport = create_transport()
    wait_up(transport, len(shape.shards))
    for number in range(300):
        transport.send(frame_for(shape, number))
    transport.close()
    assert transport.receive(0.05) is None
    transport.send(frame_for(shape, 300))
    assert transport.receive(0.05) is None
    transport.close()
    wait_until(lambda: not running() - before, lambda: f"the end of {running() - before}")


def test_close_at_once_leaves_nothing_running(create_transport):
    before = running()
    for _ in range(5):
        create_transport().close()
    wait_until(lambda: not running() - before, lambda: f"the end of {running() - before}")


def test_the_exchange_gives_the_bits_of_the_bank_whatever_carries_it(create_transport, bank, shape):
    exchange = exchange_over(create_transport(), shape)
    try:
        x = create_tokens(23)
        for step, layer in enumerate(range(checkpoint().config.num_layers)):
            exchange.start_step(step)
            routings = [create_routing(23, seed) for seed in (layer, layer + 50)]
            away = [exchange.begin(layer, m, x, routing) for m, routing in enumerate(routings)]
            for routing, result in zip(routings, away, strict=True):
                assert torch.equal(result.wait(), expected_rows(bank, layer, x, routing))
    finally:
        exchange.close()
