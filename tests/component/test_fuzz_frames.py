"""Exchange frames under fire: a stream that breaks the protocol ends, and the shard serves on."""

import json
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import GalerneError, ProtocolError
from galerne.frame import (
    DType,
    FrameHeader,
    FrameKind,
    Reassembler,
    Section,
    encode,
)
from galerne.hello import decode_hello, decode_refusal, decode_welcome, encode_hello
from galerne.ids import ShardId
from helpers.cluster import hello
from helpers.exchange_frames import Rogue, assert_served, create_frame, running
from helpers.fixture_models import checkpoint
from helpers.fuzzing import VALUES, Tally, damaged, fuzzed, mutated
from helpers.waiting import wait_until
from shards.shm.frames import read_request as ring_request
from shards.shm.frames import write_request
from shards.shm.memory import OwnedMemory
from shards.shm.rings import RingReader, RingWriter, ring_bytes, ring_library
from shards.wire import RequestRows, read_request, request_sections

ENDS = {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}
ODD = st.sampled_from([0, 1, 2, 3, 7, 255, 2**16 - 1])
WIDE = ODD | st.sampled_from([2**31, 2**32 - 1])
HEADER_CHANGES = st.dictionaries(
    st.sampled_from(["layer", "micro_batch", "attempt", "flags", "kind", "dtype"]),
    ODD,
    max_size=1,
) | st.dictionaries(
    st.sampled_from(["epoch", "num_tokens", "num_rows", "hidden_size", "frame", "incarnation"]),
    WIDE,
    max_size=2,
)


def good_sections():
    outgoing = create_frame(ShardId("shard-0"), range(4))
    rows = outgoing.rows
    payload = RequestRows(outgoing.tokens, rows.expert_ids, rows.num_rows_by_group, rows.row_token)
    sections = [(kind, bytes(data)) for kind, data in request_sections(payload)]
    fields = {
        "kind": FrameKind.REQUEST,
        "incarnation": 7,
        "epoch": 1,
        "frame": 1,
        "layer": 0,
        "dtype": DType.BF16,
        "num_tokens": len(outgoing.tokens),
        "num_rows": len(rows.slots),
        "hidden_size": outgoing.tokens.shape[1],
    }
    return FrameHeader(**fields), sections


@st.composite
def frames(draw):
    """Messages of a request whose checksums are right and whose content may not be."""
    header, sections = good_sections()
    changes = dict(draw(HEADER_CHANGES))
    for name, kind in (("kind", FrameKind), ("dtype", DType)):
        if name in changes:
            changes[name] = draw(st.sampled_from(kind))
    header = replace(header, **changes)
    match draw(st.sampled_from(["keep", "keep", "drop", "damage", "swap"])):
        case "drop":
            del sections[draw(st.integers(0, len(sections) - 1))]
        case "damage":
            place = draw(st.integers(0, len(sections) - 1))
            kind, data = sections[place]
            sections[place] = (kind, draw(damaged(st.just(data))))
        case "swap":
            place = draw(st.integers(0, len(sections) - 1))
            sections[place] = (draw(st.sampled_from(Section)), sections[place][1])
    return encode(header, sections, draw(st.sampled_from([1 << 20, 64])))


STREAMS = st.lists(
    frames() | damaged(frames().map(b"".join)).map(lambda data: [data]), min_size=1, max_size=4
)


@st.composite
def hellos(draw):
    """A hello whose JSON is near the right one."""
    header = FrameHeader(kind=FrameKind.HELLO, incarnation=7)
    fields = draw(st.sampled_from(HELLOS).flatmap(lambda valid: mutated([valid])) | VALUES)
    return encode(header, [(Section.JSON, json.dumps(fields).encode())])


def _hello_fields():
    from helpers.fixture_models import topology

    message = encode_hello(hello(checkpoint(), topology(checkpoint().config)))
    frame = Reassembler(1 << 20).push(message)
    return json.loads(bytes(frame.sections[Section.JSON]))


HELLOS = [_hello_fields()]


def test_decoding_refuses_and_raises_nothing_else(record_property):
    tally = Tally("frames_decoded")

    @fuzzed(250)
    @given(STREAMS | hellos().map(lambda messages: [messages]))
    def attack(stream):
        reassembler = Reassembler(1 << 20)
        try:
            for message in (m for chunks in stream for m in chunks):
                frame = reassembler.push(message)
                if frame is None:
                    continue
                for read in (read_request, decode_hello, decode_welcome, decode_refusal):
                    try:
                        read(frame)
                        tally.add("read")
                    except GalerneError:
                        tally.add("refused")
        except GalerneError:
            tally.add("broken")

    attack()
    tally.report(record_property)
    assert {"read", "refused", "broken"} <= set(tally.counts)


@pytest.mark.skipif(ring_library() is None, reason="no native library")
def test_no_record_of_a_ring_is_read_beyond_its_end(record_property):
    """A gateway's memory is not the shard's alone: any word of it may change at any time."""
    tally, capacity = Tally("ring_records"), 4096
    outgoing = create_frame(ShardId("shard-0"), range(4))
    rows, header = outgoing.rows, good_sections()[0]
    indices = (rows.expert_ids, rows.num_rows_by_group, rows.row_token)
    keys = np.arange(len(outgoing.tokens), dtype=np.uint64)
    words = WIDE | st.sampled_from([64, 128, 512, 2**30]) | st.integers(0, 2**32 - 1)
    changes = st.lists(st.tuples(st.integers(0, 60), words), min_size=1, max_size=3)

    @fuzzed(250)
    @given(st.sampled_from([None, keys]), changes)
    def attack(adapters, changes):
        memory = OwnedMemory(ring_bytes(capacity))
        writer, reader = RingWriter(memory, 0, capacity), RingReader(memory, 0, capacity)
        memory.withdraw()
        assert write_request(writer, header, RequestRows(outgoing.tokens, *indices, adapters))
        content = np.frombuffer(memory.map, "<u4", offset=reader.start)
        for place, word in changes:
            content[place] = word
        try:
            at = reader.next()
            if at is not None:
                found = ring_request(reader, at, 7)[1]
                assert found.tokens.untyped_storage().nbytes() <= len(memory.map)
                found.tokens.sum()  # all of it can be touched
            tally.add("read")
        except ProtocolError:
            tally.add("refused")

    attack()
    tally.report(record_property)
    assert {"read", "refused"} <= set(tally.counts)


def test_no_stream_fails_or_outlives_its_fault_at_a_shard(shards, shape, bank, record_property):
    tally = Tally("streams_at_a_shard")
    server = shards.hosts[ShardId("shard-0")]._server
    assert_served(shards, shape, bank)
    before = running()

    @fuzzed(90)
    @given(STREAMS)
    def attack(stream):
        with Rogue(shards.address_of("shard-0"), shape) as rogue:
            rogue.greet()
            for messages in stream:
                rogue.send(*messages)
            rogue.half_close()
            code, details = rogue.ended_with()
        tally.add(code.name)
        assert code.name in ENDS, (code, details)

    attack()
    assert {"OK", "INVALID_ARGUMENT"} <= set(tally.counts)
    assert_served(shards, shape, bank)
    wait_until(lambda: not server._streams)
    wait_until(lambda: not running() - before)
    tally.report(record_property)


def test_no_hello_fails_a_shard(shards, shape, bank, record_property):
    tally = Tally("hellos_at_a_shard")

    @fuzzed(60)
    @given(hellos() | frames())
    def attack(messages):
        with Rogue(shards.address_of("shard-0"), shape) as rogue:
            rogue.send(*messages)
            rogue.half_close()
            code, details = rogue.ended_with()
        tally.add(code.name)
        assert code is not grpc.StatusCode.UNKNOWN, details
        assert code.name in {*ENDS, "INTERNAL"}, (code, details)

    attack()
    tally.report(record_property)
    assert_served(shards, shape, bank)


@pytest.mark.parametrize("num_bytes", [0, 1, 55])
def test_the_shortest_messages_are_refused(shards, shape, num_bytes):
    with Rogue(shards.address_of("shard-0"), shape) as rogue:
        rogue.greet()
        rogue.send(b"\0" * num_bytes)
        assert rogue.ended_with()[0] is grpc.StatusCode.INVALID_ARGUMENT
