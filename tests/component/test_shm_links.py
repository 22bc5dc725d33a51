"""Links through shared memory: used where they can be, and none the worse where they break."""

import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import shards.shm.link as shard_end
from galerne.errors import GalerneError
from galerne.ids import ShardId
from helpers.cluster import (
    RING_BYTES,
    TOKEN,
    UNHURRIED,
    Shards,
    create_shm,
    hello,
    remote_exchange,
)
from helpers.exchange_frames import (
    FAST,
    assert_answers,
    assert_exchanges,
    assert_served,
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
from helpers.fixture_models import checkpoint
from router.exchange.links import LinkState
from router.exchange.shm_transport import ShmTransport
from router.exchange.transport import LinkDown, LinkUp
from shards.shm.rings import ring_library

pytestmark = pytest.mark.skipif(ring_library() is None, reason="no native library")

SHARD = ShardId("shard-0")


@pytest.fixture
def transport(shape, shards):
    transport = create_shm(shape.shards, hello(checkpoint(), shape), TOKEN, shards, FAST)
    yield transport
    transport.close()


# -- what goes which way -----------------------------------------------------------------------


def test_frames_go_by_the_rings_and_too_large_ones_by_the_stream(transport, bank, stream_frames):
    wait_up(transport, 1)
    requests = transport._ends[SHARD].requests
    written, freed = np.frombuffer(requests.memory.map, np.uint64, 16, requests.start)[[0, 8], None]
    for number in range(40):
        assert_answers(transport, bank, number, num_tokens=1 + 9 * number)
        assert written == freed  # nothing of what is answered stays in the ring
    assert not stream_frames
    assert_answers(transport, bank, 40, num_tokens=RING_BYTES // 128)
    assert len(stream_frames) == 1
    assert_answers(transport, bank, 41)
    assert len(stream_frames) == 1


def test_whole_calls_use_no_frame_of_their_own(bank, stream_frames, monkeypatch):
    monkeypatch.setattr(ShmTransport, "send", None)
    with remote_exchange(4, create=create_shm, config=UNHURRIED) as (exchange, shards):
        wait_for_links(exchange, LinkState.UP)
        for seed, num_tokens in enumerate([1, 2, 16, 17, 64, 1]):
            exchange.start_step(seed)
            assert_exchanges(exchange, bank, seed, seed % 2, num_tokens)
        frames = sum(host.describe()["frames"] for host in shards.hosts.values())
    assert 6 < frames <= 6 * 4
    assert exchange.counters.rows_sent == 2 * (1 + 2 + 16 + 17 + 64 + 1)
    assert exchange.counters.rows_resent == exchange.counters.late_answers == 0


def test_calls_of_two_micro_batches_are_away_together(bank, stream_frames):
    with remote_exchange(2, create=create_shm) as (exchange, _):
        wait_for_links(exchange, LinkState.UP)
        for layer in (0, 1):
            inputs = [(create_tokens(20, s), create_routing(20, s)) for s in (1, 2, 3)]
            away = [exchange.begin(layer, m, x, ids) for m, (x, ids) in enumerate(inputs)]
            for (x, ids), pending in reversed(list(zip(inputs, away, strict=True))):
                assert torch.equal(pending.wait(), expected_rows(bank, layer, x, ids))
    assert not stream_frames


def test_a_call_over_the_row_budget_goes_in_frames(bank):
    with remote_exchange(2, create=create_shm, row_budget=8) as (exchange, shards):
        wait_for_links(exchange, LinkState.UP)
        assert_exchanges(exchange, bank, num_tokens=40)
        # counted after the answer is sent: may come a moment later than that
        wait_until(
            lambda: sum(host.describe()["frames"] for host in shards.hosts.values()) >= 10,
            "every frame counted",
        )


def test_answers_of_an_abandoned_call_do_not_disturb_the_next(bank):
    with remote_exchange(2, create=create_shm) as (exchange, _):
        wait_for_links(exchange, LinkState.UP)
        for step in range(30):
            exchange.start_step(step)
            exchange.begin(0, 0, create_tokens(9, step), create_routing(9, step))
            exchange.abandon()
            assert_exchanges(exchange, bank, step)


def test_two_gateways_share_a_shard(shape, shards, bank):
    greetings = [hello(checkpoint(), shape, incarnation) for incarnation in (7, 8)]
    transports = [create_shm(shape.shards, g, TOKEN, shards, FAST) for g in greetings]
    try:
        for transport in transports:
            wait_up(transport, 1)
        frames = [create_frame(SHARD, range(4), number) for number in range(50)]
        for frame in frames:
            for transport in transports:
                transport.send(frame)
        for transport in transports:
            rows = {answer.frame: answer.rows for answer in receive(transport, len(frames))}
            for frame in frames:
                assert torch.equal(rows[frame.frame], result_of(bank, frame))
    finally:
        for transport in transports:
            transport.close()


# -- where there is no shared memory -------------------------------------------------------------


@pytest.mark.parametrize("fault", ["no library at the shard", "another host", "no memory"])
def test_without_shared_memory_frames_go_by_the_stream_and_the_log_says_why(
    shape, bank, caplog, monkeypatch, stream_frames, fault
):
    caplog.set_level(logging.WARNING)
    if fault == "no library at the shard":
        monkeypatch.setattr("shards.worker.create_bell", shard_bell_of_threads)
        said = "the shard has no shared memory"
    elif fault == "another host":
        real_open = shard_end.open_shared
        monkeypatch.setattr(shard_end, "open_shared", lambda f: real_open(elsewhere(f)))
        said = "another id is there"
    else:
        said = "no memory for it"

        def fail(self, bell, ring_bytes):
            raise OSError(said)

        monkeypatch.setattr("router.exchange.shm_ends.RingOffer.__init__", fail)
    shards = Shards(shape)
    transport = create_shm(shape.shards, hello(checkpoint(), shape), TOKEN, shards, FAST)
    try:
        wait_up(transport, 1)
        for number in range(5):
            assert_answers(transport, bank, number)
        assert len(stream_frames) == 5
        lines = [r.message for r in caplog.records if "shared_memory_not_used" in r.message]
        assert len(lines) == 1
        assert said in lines[0]
    finally:
        transport.close()
        shards.close()


def shard_bell_of_threads():
    from shards.bell import ThreadBell

    return ThreadBell()


def elsewhere(file):
    return replace(file, id="ab" * 16)


# -- faults --------------------------------------------------------------------------------------


def garbage(memory_map, start, num_bytes=256):
    memory_map[start : start + num_bytes] = 0xFF


def test_nonsense_from_a_gateway_ends_its_own_link_only(shape, shards, bank, transport):
    wait_up(transport, 1)
    requests = transport._ends[SHARD].requests
    garbage(requests.memory.map, requests.start)
    transport._ends[SHARD].bell.ring()
    assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
    assert_answers(transport, bank)
    assert_served(shards, shape, bank)


@pytest.mark.parametrize("value", [1, 1 << 16, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("word", range(1, 16))
def test_no_number_in_a_record_ends_the_shards_thread(shape, shards, bank, word, value):
    transport = create_shm(shape.shards, hello(checkpoint(), shape), TOKEN, shards, FAST)
    try:
        wait_up(transport, 1)
        ends, frame = transport._ends[SHARD], create_frame(SHARD, range(4))
        record = np.array([0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 4, 6, 64, 0], np.uint32)
        record[word] = value
        rows = frame.rows
        indices = (rows.expert_ids, rows.num_rows_by_group, rows.row_token)
        for given in (indices, None):  # also without what the header says is there
            ends.requests.send(record.tobytes(), frame.source.data_ptr(), 3, 128, given)
        ends.bell.ring()
        while transport.receive(0.02) is not None:
            pass
        assert shards.hosts[SHARD].is_alive
    finally:
        transport.close()
    assert_served(shards, shape, bank)


def test_an_empty_frame_of_a_layer_that_is_not_there_is_harmless(shape, shards, bank, transport):
    wait_up(transport, 1)
    frame = create_frame(SHARD, range(4), layer=99)
    names = ("expert_ids", "row_token", "slots", "num_rows_by_group")
    nothing = {name: getattr(frame.rows, name)[:0] for name in names}
    transport.send(replace(frame, rows=replace(frame.rows, **nothing)))
    (answer,) = receive(transport, 1)
    assert answer.rows.shape[0] == 0
    assert shards.hosts[SHARD].is_alive
    assert_served(shards, shape, bank)


def test_nonsense_from_a_shard_makes_the_link_anew(transport, bank):
    wait_up(transport, 1)
    replies = transport._ends[SHARD].replies
    garbage(replies.memory.map, replies.start)
    transport._bell.ring()
    assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
    assert_answers(transport, bank)


def test_a_reply_ring_without_room_leaves_answers_to_the_stream(transport, bank):
    wait_up(transport, 1)
    frames = [create_frame(SHARD, range(4), n, num_tokens=800) for n in range(60)]
    for frame in frames:  # nobody reads meanwhile: 12 MB of answers, rings of 1 MiB
        transport.send(frame)
    rows = {answer.frame: answer.rows for answer in receive(transport, len(frames))}
    for frame in frames:
        assert torch.equal(rows[frame.frame], result_of(bank, frame))
    assert_answers(transport, bank, 100)


def num_maps():
    """Mappings of shared memory in this process."""
    with open("/proc/self/maps") as maps:
        return sum("memfd:galerne" in line for line in maps)


@pytest.mark.parametrize("is_broken", [False, True], ids=["closed", "broken and closed"])
def test_many_connections_leave_nothing_behind(shape, shards, bank, no_collector, is_broken):
    def held():
        return len(os.listdir("/proc/self/fd")), num_maps()

    def connect():
        transport = create_shm(shape.shards, hello(checkpoint(), shape), TOKEN, shards, FAST)
        wait_up(transport, 1)
        assert_answers(transport, bank)
        if is_broken:
            replies = transport._ends[SHARD].replies
            garbage(replies.memory.map, replies.start)
            transport._bell.ring()
            receive(transport, 2)
        transport.close()

    connect()
    wait_until(lambda: not shards.hosts[SHARD]._worker._shared, "the shard to let go")
    before = held()
    for _ in range(10):
        connect()
    wait_until(lambda: held() <= before, lambda: f"{held()} to be {before}")


def test_a_link_that_is_made_anew_many_times_holds_one_pair_of_rings(no_collector, transport, bank):
    wait_up(transport, 1)
    before = num_maps()
    for number in range(10):
        transport._grpc.fail(SHARD, GalerneError("for the test"))
        assert [type(event) for event in receive(transport, 2)] == [LinkDown, LinkUp]
        assert_answers(transport, bank, number)
    wait_until(lambda: num_maps() <= before, lambda: f"{num_maps()} to be {before}")


# -- the native layout -----------------------------------------------------------------------------


def test_a_whole_call_and_its_frames_one_by_one_ask_the_same(bank):
    """Mutations of routing: repeated experts, tokens with one shard only, shards without rows."""
    rng = np.random.default_rng(0)
    with remote_exchange(3, create=create_shm) as (exchange, _):
        wait_for_links(exchange, LinkState.UP)
        for step in range(60):
            exchange.start_step(step)
            num_tokens, num_experts = int(rng.integers(1, 40)), int(rng.integers(2, 17))
            experts = rng.permutation(16)[:num_experts]
            x, routing = create_tokens(num_tokens, step), create_routing(num_tokens, step, experts)
            result = exchange.begin(step % 2, 0, x, np.sort(routing, axis=1)).wait()
            want = expected_rows(bank, step % 2, x, np.sort(routing, axis=1))
            assert torch.equal(result, want)
