"""Links by NCCL, on a stand-in for the GPUs: used where both ends can and may, and only there."""

import logging
import re
from contextlib import closing, contextmanager

import pytest
import torch

from galerne.errors import EpochRetiredError, ProtocolError
from galerne.ids import ShardId
from helpers.cluster import UNHURRIED, Shards
from helpers.exchange_frames import (
    assert_answers,
    assert_exchanges,
    create_frame,
    create_tokens,
    receive,
    result_of,
    wait_up,
)
from helpers.fixture_models import checkpoint, exchange_over, topology
from helpers.nccl_cluster import is_up, nccl_parts, nccl_shards
from router.exchange.nccl_link import NcclState
from router.exchange.transport import Answer, Refusal
from shards.nccl.availability import MAX_LINKS, NcclUnavailableError
from shards.nccl.cupy_port import open_port
from shards.nccl.process import NcclProcess

SHARD = ShardId("shard-0")


def shape_of(*shards):
    return topology(checkpoint().config, shards or ["shard-0"])


@contextmanager
def linked(*shards, config=None):
    """Transport, parts and shards, with all links up."""
    shape = shape_of(*shards)
    with nccl_shards(shape, config) as (served, create), closing(create(shape, served)) as made:
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
            assert port.threads["group"] <= {"nccl-join", "nccl-issuer"}  # the former warms up
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
    with linked() as (transport, parts, _):
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


def test_there_are_no_more_links_than_hardware_queues_for_their_streams():
    with nccl_parts() as parts:
        runtime = parts.gateway.runtime()
        for number in range(MAX_LINKS):
            runtime._channels[number] = None
        with pytest.raises(NcclUnavailableError, match=f"{MAX_LINKS} links use it"):
            parts.gateway.offer()
        runtime._channels.clear()


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
