"""Links by NCCL, on a stand-in for the GPUs: used where both ends can and may, and only there."""

import logging
import re
import threading
from contextlib import closing, contextmanager, nullcontext

import pytest
import torch

from galerne.errors import EpochRetiredError, ProtocolError
from galerne.hello import NcclOffer
from galerne.ids import ShardId
from helpers.cluster import UNHURRIED, Shards
from helpers.exchange_frames import (
    assert_answers,
    assert_exchanges,
    create_frame,
    create_tokens,
    receive,
    result_of,
    wait_until,
    wait_up,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.nccl_cluster import HOST, is_up, nccl_parts, nccl_shards, no_link_given_up
from router.exchange.nccl_link import NcclState
from router.exchange.transport import Answer, Refusal
from shards.nccl.availability import NcclUnavailableError
from shards.nccl.cupy_port import open_port
from shards.nccl.process import NcclProcess
from shards.nccl.runtime import NcclConfig

SHARD = ShardId("shard-0")
PATIENT = NcclConfig(join_timeout_s=30.0, turn_timeout_s=30.0)


def shape_of(*shards):
    return topology(checkpoint().config, shards or ["shard-0"])


@contextmanager
def linked(*shards, config=None, is_watched=True):
    """Transport, parts and shards, with all links up, and by NCCL to the end."""
    shape = shape_of(*shards)
    with (
        nccl_shards(shape, config) as (served, create),
        no_link_given_up() if is_watched else nullcontext(),
        closing(create(shape, served)) as made,
    ):
        wait_up(made, len(shape.shards))
        yield made, create.__self__, served


def test_tokens_and_rows_go_by_nccl_and_no_byte_of_them_by_the_stream(bank, stream_frames):
    with linked() as (transport, parts, _):
        assert is_up(transport)
        frames = [create_frame(SHARD, range(4), n, num_tokens=1 + 9 * n) for n in range(20)]
        for frame in frames:
            transport.send(frame)
        rows = {answer.frame: answer.rows for answer in receive(transport, len(frames))}
        for frame in frames:
            assert torch.equal(rows[frame.frame], result_of(bank, frame))
        row_bytes = 2 * checkpoint().config.hidden_size
        num_rows = sum(len(f.rows.tokens) + len(f.rows.slots) for f in frames)
        assert parts.fabric.num_bytes == num_rows * row_bytes + 2  # two to warm up
        assert not stream_frames
        assert parts.fabric.mismatches == []


def test_one_thread_of_each_process_makes_all_calls_for_rows(bank):
    with linked("shard-0", "shard-1") as (transport, parts, _):
        for number in range(8):
            shard = f"shard-{number % 2}"
            held = topology(checkpoint().config, ["shard-0", "shard-1"]).placement
            transport.send(create_frame(shard, held.experts_of(shard)[0], number))
        receive(transport, 8)
        for port in parts.ports.values():
            assert port.threads["join"] == {"nccl-join"}
            for call in ("group", "send", "receive"):  # the former warms up
                assert port.threads[call] == {"nccl-join", "nccl-issuer"}
            assert len(port.streams) == 2 * len(port.ends)


def test_a_frame_of_all_tokens_is_read_where_it_lies(bank, monkeypatch):
    with linked() as (transport, _, _):
        addresses = []
        channel = transport._links[SHARD]._channel
        post = channel.post

        def note(sends, *rest):
            addresses.extend(rows.data_ptr() for rows in sends)
            post(sends, *rest)

        monkeypatch.setattr(channel, "post", note)
        frame = create_frame(SHARD, range(4), num_tokens=9)
        transport.send(frame)
        receive(transport, 1)
        assert addresses == [frame.source.data_ptr()]


def test_nothing_moves_before_what_made_the_tokens_has_run(bank):
    with linked(config=PATIENT) as (transport, parts, _):
        port = parts.ports["gateway"]
        port.fences = []
        frame = create_frame(SHARD, range(4), num_tokens=9)
        tokens = frame.source.clone()
        frame.source.zero_()  # the device has not computed it yet
        moved = parts.fabric.num_bytes
        transport.send(frame)
        assert transport.receive(0.1) is None
        assert parts.fabric.num_bytes == moved
        frame.source.copy_(tokens)
        while port.fences:
            port.fences.pop().come()
        port.fences = None
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))


def test_nothing_moves_into_memory_of_the_shard_that_its_device_may_still_use(bank):
    with linked(config=PATIENT) as (transport, parts, _):
        port, moved = parts.ports["shard-0"], parts.fabric.num_bytes
        port.fences = []
        frame = create_frame(SHARD, range(4), num_tokens=9)
        transport.send(frame)
        wait_until(lambda: port.fences, "the turn of the tokens")
        assert transport.receive(0.05) is None
        assert parts.fabric.num_bytes == moved
        port.fences.pop(0).come()
        wait_until(lambda: len(port.fences) == 2, "the rows, and the turn that takes them")
        assert parts.fabric.num_bytes == moved + frame.tokens.nbytes
        of_rows, of_turn = port.fences
        of_turn.come()
        assert transport.receive(0.05) is None  # the device has not computed them
        assert parts.fabric.num_bytes == moved + frame.tokens.nbytes
        of_rows.come()
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))
        port.fences = None


def test_a_refused_frame_holds_up_no_other(bank):
    with linked("shard-0", "shard-1") as (transport, _, served):
        held = served.shape.placement
        mine, foreign = (held.experts_of(shard)[0] for shard in served.shape.shards)
        frames = [create_frame(SHARD, foreign[:2] if n % 2 else mine, n) for n in range(10)]
        for frame in frames:
            transport.send(frame)
        events = {event.frame: event for event in receive(transport, 10)}
        for number, frame in enumerate(frames):
            if number % 2:
                assert isinstance(events[number], Refusal)
                assert isinstance(events[number].error, ProtocolError)
                assert "is not resident" in str(events[number].error)
            else:
                assert torch.equal(events[number].rows, result_of(bank, frame))
        assert is_up(transport)


def test_frames_of_a_retired_epoch_are_refused_by_the_stream_and_the_link_goes_on(bank):
    with linked() as (transport, _, served):
        served.hosts[SHARD]._server.epochs.replace([2])
        transport.send(create_frame(SHARD, range(4), 1))
        (event,) = receive(transport, 1)
        assert isinstance(event, Refusal)
        assert isinstance(event.error, EpochRetiredError)
        served.hosts[SHARD]._server.epochs.replace([1])
        assert_answers(transport, bank, 2)
        assert is_up(transport)


def test_an_empty_frame_goes_by_the_stream(bank, stream_frames):
    with linked() as (transport, _, _):
        frame = create_frame(SHARD, range(4), num_tokens=0)
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert isinstance(answer, Answer)
        assert len(stream_frames) == 1
        assert_answers(transport, bank, 1)
        assert len(stream_frames) == 1


def test_gateways_of_two_epochs_have_a_communicator_each(bank):
    with linked() as (first, parts, served):
        with closing(parts.transport(served.shape, served, parts.process("gateway-1"))) as second:
            wait_up(second, 1)
            assert is_up(first)
            assert is_up(second)
            for number in range(20):
                for transport in (first, second):
                    transport.send(create_frame(SHARD, range(4), number))
            for transport in (first, second):
                assert len(receive(transport, 20)) == 20
        assert_answers(first, bank, 100)


def test_the_exchange_uses_it_like_any_other(bank):
    shape = topology(checkpoint().config, ["shard-0", "shard-1"], row_budget=8)
    with nccl_shards(shape) as (served, create):
        exchange = exchange_over(create(shape, served), shape, UNHURRIED)
        with closing(exchange):
            for step in range(6):
                exchange.start_step(step)
                assert_exchanges(exchange, bank, step, step % 2, num_tokens=1 + 7 * step)
            assert exchange.counters.rows_resent == exchange.counters.late_answers == 0


# -- where it cannot or must not be used -----------------------------------------------------------


@contextmanager
def not_linked(caplog, gateway, shard):
    """Transport of a link that goes by the stream, and what the log says of it."""
    caplog.set_level(logging.WARNING)
    shape = shape_of()
    with nccl_parts() as parts:
        ours, theirs = parts.process("ours", **gateway), parts.process("theirs", **shard)
        served = Shards(shape, nccl=lambda _: theirs)
        try:
            with closing(parts.transport(shape, served, ours)) as transport:
                wait_up(transport, 1)
                assert transport.states == {SHARD: NcclState.UNUSED}
                lines = [r.message for r in caplog.records if "nccl_not_used" in r.message]
                assert len(lines) == 1
                yield transport, parts, lines[0]
        finally:
            served.close()


def no_gpu():
    raise NcclUnavailableError("torch finds no GPU")


@pytest.mark.parametrize(
    ("gateway", "shard", "said"),
    [
        ({}, {"open_port": no_gpu}, "torch finds no GPU"),
        ({}, {"host": "another"}, "another host or pod.*--trusted-network nccl"),
        ({"host": ""}, {"host": ""}, "another host or pod"),
        ({"trusts_network": True}, {"host": "another"}, "another host or pod"),
        ({}, {"host": "another", "trusts_network": True}, "another host or pod"),
    ],
    ids=["no GPU", "another host", "unknown hosts", "the shard's no", "the gateway's no"],
)
def test_where_one_end_cannot_or_may_not_the_link_goes_by_the_stream_and_the_log_says_why(
    caplog, bank, stream_frames, gateway, shard, said
):
    with not_linked(caplog, gateway, shard) as (transport, parts, line):
        for number in range(3):
            assert_answers(transport, bank, number)
        assert len(stream_frames) == 3
        assert parts.fabric.num_bytes == 0
        assert re.search(said, line)


def test_a_trusted_network_lets_it_leave_the_host(bank, stream_frames):
    shape = shape_of()
    with nccl_parts() as parts:
        theirs = parts.process("theirs", host="another", trusts_network=True)
        served = Shards(shape, nccl=lambda _: theirs)
        ours = parts.process("ours", trusts_network=True)
        try:
            with closing(parts.transport(shape, served, ours)) as transport:
                wait_up(transport, 1)
                assert is_up(transport)
                assert_answers(transport, bank)
                assert not stream_frames
        finally:
            served.close()


def test_without_cupy_a_gateway_that_is_asked_for_it_is_refused_by_name():
    problem = "cupy is not installed"
    with pytest.raises(NcclUnavailableError, match=problem):
        open_port(trusts_network=False)
    shape = shape_of()
    with nccl_parts() as parts, pytest.raises(NcclUnavailableError, match=problem):
        parts.transport(shape, None, NcclProcess())


def test_links_that_are_made_at_once_are_no_more_than_there_is_room_for(bank, monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "5")
    shards = [f"shard-{number}" for number in range(5)]
    with linked(*shards, is_watched=False) as (transport, parts, served):
        states = list(transport.states.values())
        assert sorted(state.value for state in states) == ["unused"] * 3 + ["up"] * 2
        assert parts.gateway.num_links == 2
        for shard in shards:
            transport.send(create_frame(shard, served.shape.placement.experts_of(shard)[0]))
        for answer in receive(transport, 5):
            held = served.shape.placement.experts_of(answer.shard)[0]
            assert torch.equal(answer.rows, result_of(bank, create_frame(answer.shard, held)))


def test_nobody_waits_for_ever_for_a_gpu_that_does_not_start():
    config, is_let_go = NcclConfig(start_timeout_s=0.1), threading.Event()
    with nccl_parts() as parts:
        port = parts.fabric.port()

        def open_late():
            assert is_let_go.wait(60)
            return port

        process = NcclProcess(open_port=open_late, config=config, host=HOST)
        first = threading.Thread(target=process.runtime)
        first.start()
        wait_until(process._lock.locked, "the first to be at it")
        with pytest.raises(NcclUnavailableError, match=r"not started in 0\.1 s"):
            process.offer()
        process.stop()
        is_let_go.set()
        first.join(60)
        assert process.runtime().port is port
        process.stop()


def test_there_are_no_more_links_than_hardware_queues_for_their_streams(monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "16")
    with nccl_parts() as parts:
        runtime = parts.gateway.runtime()
        runtime._channels = dict.fromkeys(range(6))
        parts.gateway.offer()
        runtime._channels = dict.fromkeys(range(7))
        with pytest.raises(NcclUnavailableError, match="7 links use it"):
            parts.gateway.offer()
        with pytest.raises(NcclUnavailableError, match="7 links use it"):
            parts.gateway.accept(NcclOffer(id="00" * 128, host=HOST, trusts_network=False))
        runtime._channels = {}


def test_source_rows_that_are_not_contiguous_are_sent_as_they_are_meant(bank):
    with linked() as (transport, _, _):
        frame = create_frame(SHARD, range(4), num_tokens=6)
        wide = torch.cat([create_tokens(6, 0), create_tokens(6, 1)], dim=1)
        hidden = checkpoint().config.hidden_size
        object.__setattr__(frame, "source", wide[:, hidden:])
        assert not frame.source.is_contiguous()
        transport.send(frame)
        (answer,) = receive(transport, 1)
        assert torch.equal(answer.rows, result_of(bank, frame))
