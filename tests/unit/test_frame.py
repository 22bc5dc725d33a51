import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import (
    EpochRetiredError,
    HelloRefusedError,
    NotServingError,
    ProtocolError,
)
from galerne.frame import (
    HEADER_BYTES,
    VERSION,
    DType,
    FrameHeader,
    FrameKind,
    Reassembler,
    Section,
    _message,
    decode_chunk,
    encode,
)
from galerne.hello import (
    Hello,
    SharedFile,
    Welcome,
    check_hello,
    decode_hello,
    decode_refusal,
    decode_welcome,
    encode_hello,
    encode_refusal,
    encode_welcome,
)
from shards.shm.link import wrong_epoch

LIMIT = 1 << 20
relaxed = settings(deadline=None)


def unsigned(bits):
    return st.integers(0, (1 << bits) - 1)


HEADERS = st.builds(
    FrameHeader,
    kind=st.sampled_from(FrameKind),
    dtype=st.sampled_from(DType),
    gateway=unsigned(32),
    incarnation=unsigned(64),
    epoch=unsigned(32),
    step=unsigned(64),
    frame=unsigned(32),
    layer=unsigned(16),
    micro_batch=unsigned(16),
    attempt=unsigned(16),
    num_tokens=unsigned(32),
    num_rows=unsigned(32),
    hidden_size=unsigned(32),
    flags=unsigned(16),
)
SECTIONS = st.dictionaries(st.sampled_from(Section), st.binary(max_size=200)).map(
    lambda found: list(found.items())
)


def create_header(**fields):
    return FrameHeader(**{"kind": FrameKind.REQUEST, "incarnation": 7, "frame": 3, **fields})


def reassemble(messages, limit=LIMIT):
    reassembler = Reassembler(limit)
    frames = [reassembler.push(message) for message in messages]
    assert frames[:-1] == [None] * (len(frames) - 1)
    return frames[-1]


def with_payload(payload):
    """A message whose payload is no section table that ``encode`` would write."""
    message = _message(create_header(), memoryview(payload))
    decode_chunk(message)  # the checksum is right, the content is not
    return message


@relaxed
@given(HEADERS, SECTIONS, st.integers(1, 300))
def test_a_frame_survives_the_wire_whatever_the_chunk_size(header, sections, chunk_bytes):
    messages = encode(header, sections, chunk_bytes)
    assert all(len(message) <= HEADER_BYTES + chunk_bytes for message in messages)
    frame = reassemble(messages)
    assert frame.header == replace(header, num_chunks=len(messages))
    assert {kind: bytes(data) for kind, data in frame.sections.items()} == dict(sections)


@relaxed
@given(HEADERS, SECTIONS, st.integers(16, 300))
def test_frames_follow_one_another_on_one_stream(header, sections, chunk_bytes):
    reassembler = Reassembler(LIMIT)
    for frame in range(3):
        messages = encode(replace(header, frame=frame), sections, chunk_bytes)
        *_, last = [reassembler.push(message) for message in messages]
        assert last.header.frame == frame


@settings(max_examples=8, deadline=None)
@given(HEADERS, SECTIONS.filter(bool), st.integers(1, 255))
def test_every_single_damaged_byte_is_refused(header, sections, flip):
    (message,) = encode(header, sections)
    for place in range(len(message)):
        damaged = bytearray(message)
        damaged[place] ^= flip
        with pytest.raises(ProtocolError):
            reassemble([bytes(damaged)])


def test_every_truncation_and_every_surplus_byte_is_refused():
    (message,) = encode(create_header(), [(Section.TOKENS, b"tokens"), (Section.ROWS, b"rows")])
    for length in range(len(message)):
        with pytest.raises(ProtocolError):
            reassemble([message[:length]])
    with pytest.raises(ProtocolError, match="header says"):
        reassemble([message + b"\0"])


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1), (0, 1, 1), (1,), (0, 1, 0)])
def test_a_chunk_out_of_order_is_refused(order):
    messages = encode(create_header(), [(Section.TOKENS, b"x" * 20)], 12)
    assert len(messages) == 3
    with pytest.raises(ProtocolError, match="out of order"):
        reassemble([messages[chunk] for chunk in order])


@pytest.mark.parametrize("field", ["frame", "attempt", "layer", "step", "epoch", "incarnation"])
def test_chunks_of_two_frames_are_never_joined(field):
    sections = [(Section.TOKENS, b"x" * 20)]
    ours = encode(create_header(), sections, 16)
    others = encode(create_header(**{field: 9}), sections, 16)
    with pytest.raises(ProtocolError, match="out of order"):
        reassemble([ours[0], others[1]])


def test_a_frame_above_the_limit_is_refused_before_it_is_whole():
    messages = encode(create_header(), [(Section.TOKENS, b"x" * 4000)], 100)
    reassembler = Reassembler(1000)
    for message in messages[:10]:
        assert reassembler.push(message) is None
    with pytest.raises(ProtocolError, match="exceeds 1000"):
        reassembler.push(messages[10])


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "no section table"),
        (b"\1\0\0", "no section table"),
        (struct.pack("<I", 1), "does not fit"),
        (struct.pack("<I", 1 << 31), "does not fit"),
        (struct.pack("<I", 17) + bytes(17 * 8), "does not fit"),
        (struct.pack("<IHHI", 1, Section.ROWS, 0, 5) + b"four", "runs past"),
        (struct.pack("<IHHI", 1, Section.ROWS, 0, 3) + b"four", "after the last section"),
        (struct.pack("<IHHI", 1, 99, 0, 4) + b"four", "kind 99 is unknown"),
        (struct.pack("<IHHIHHI", 2, 6, 0, 2, 6, 0, 2) + b"four", "section 6 is there twice"),
    ],
)
def test_a_bad_section_table_is_refused(payload, problem):
    with pytest.raises(ProtocolError, match=problem):
        reassemble([with_payload(payload)])


@relaxed
@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_is_raised(noise):
    with pytest.raises(ProtocolError):
        reassemble([noise])
    with pytest.raises(ProtocolError):
        reassemble([with_payload(noise + b"\xff")])


# -- hello, welcome, refusal -----------------------------------------------------------------


def create_hello(**fields):
    return Hello(
        **{
            "gateway": "gateway-0",
            "incarnation": 7,
            "fingerprint": "abc",
            "numerics_profile": "torch-bf16",
            "epoch": 2,
            **fields,
        }
    )


def json_frame(kind, fields):
    return reassemble(encode(FrameHeader(kind=kind), [(Section.JSON, json.dumps(fields).encode())]))


HELLO_FIELDS = {
    "gateway": "g",
    "incarnation": 1,
    "fingerprint": "f",
    "numerics_profile": "p",
    "epoch": 1,
    "protocol": VERSION,
}
WELCOME_FIELDS = {"shard": "s", "epochs": [1], "max_frames": 4}


@relaxed
@given(st.text(max_size=20), unsigned(64), st.text(max_size=20), st.text(), unsigned(32))
def test_a_hello_survives_the_wire(gateway, incarnation, fingerprint, profile, epoch):
    hello = Hello(
        gateway=gateway,
        incarnation=incarnation,
        fingerprint=fingerprint,
        numerics_profile=profile,
        epoch=epoch,
    )
    assert decode_hello(reassemble([encode_hello(hello)])) == hello


@relaxed
@given(st.text(max_size=20), st.lists(unsigned(32), max_size=4), unsigned(16))
def test_a_welcome_survives_the_wire(shard, epochs, max_frames):
    welcome = Welcome(shard=shard, epochs=epochs, max_frames=max_frames)
    assert decode_welcome(reassemble([encode_welcome(welcome)])) == welcome


@relaxed
@given(HEADERS, st.text(), st.sampled_from([ProtocolError, NotServingError]))
def test_a_refusal_names_its_frame_and_says_whether_to_try_again(request, message, kind):
    frame = reassemble([encode_refusal(request, kind(message))])
    error = decode_refusal(frame)
    assert message in str(error)
    assert error.is_retryable == kind.is_retryable
    assert not isinstance(error, EpochRetiredError)
    assert frame.header.frame == request.frame
    assert frame.header.incarnation == request.incarnation


@given(HEADERS)
def test_a_refusal_says_that_the_epoch_is_retired(request):
    frame = reassemble([encode_refusal(request, wrong_epoch({request.epoch + 1}, request.epoch))])
    error = decode_refusal(frame)
    assert isinstance(error, EpochRetiredError)
    assert error.epoch == request.epoch


def test_an_epoch_that_has_not_come_yet_is_not_retired():
    assert isinstance(wrong_epoch({1, 2}, 3), HelloRefusedError)


def test_an_equal_hello_is_accepted():
    check_hello(create_hello(), "abc", "torch-bf16", {1, 2})


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("fingerprint", "xyz", "xyz"),
        ("numerics_profile", "triton-sm90", "triton-sm90"),
        ("epoch", 3, "1,2 here and 3"),
    ],
)
def test_every_mismatch_of_a_hello_is_refused_by_name(field, value, shown):
    with pytest.raises(HelloRefusedError, match=shown) as refused:
        check_hello(create_hello(**{field: value}), "abc", "torch-bf16", {1, 2})
    assert refused.value.field == field


def test_another_protocol_version_is_refused_by_name():
    with pytest.raises(HelloRefusedError, match=f"protocol is {VERSION} here and 1 at the peer"):
        decode_hello(json_frame(FrameKind.HELLO, HELLO_FIELDS | {"protocol": 1}))


MEMORY = SharedFile(pid=7, fd=3, num_bytes=4096, id="ab")


def test_offers_of_shared_memory_survive_the_wire():
    hello = create_hello(rings=MEMORY, bell=replace(MEMORY, fd=4))
    assert decode_hello(reassemble([encode_hello(hello)])) == hello
    welcome = Welcome(shard="s", epochs=[1], max_frames=1, bell=MEMORY, not_shared="why")
    assert decode_welcome(reassemble([encode_welcome(welcome)])) == welcome


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "rings is"),
        ({"pid": "7", "fd": 3, "num_bytes": 1, "id": "ab"}, "rings: pid is"),
        ({"pid": 7, "fd": 3, "num_bytes": 1, "id": 5}, "rings: id is"),
        ({"pid": 7, "fd": 3, "num_bytes": 1}, "rings: .*'id'"),
        ({"pid": 7, "fd": 3, "num_bytes": 1, "id": "", "x": 1}, "rings: .*'x'"),
    ],
)
def test_an_offer_of_another_form_is_refused_by_name(value, said):
    with pytest.raises(ProtocolError, match=said):
        decode_hello(json_frame(FrameKind.HELLO, HELLO_FIELDS | {"rings": value}))


@pytest.mark.parametrize("field", [f for f in HELLO_FIELDS if f != "protocol"])
@pytest.mark.parametrize("value", [None, [1], 1.5, True, {}])
def test_a_hello_with_a_field_of_another_type_is_refused_by_name(field, value):
    with pytest.raises(ProtocolError, match=field):
        decode_hello(json_frame(FrameKind.HELLO, HELLO_FIELDS | {field: value}))


@pytest.mark.parametrize("field", WELCOME_FIELDS)
@pytest.mark.parametrize("value", [None, ["1"], 1.5, True, {}])
def test_a_welcome_with_a_field_of_another_type_is_refused_by_name(field, value):
    with pytest.raises(ProtocolError, match=field):
        decode_welcome(json_frame(FrameKind.WELCOME, WELCOME_FIELDS | {field: value}))


@pytest.mark.parametrize("field", HELLO_FIELDS)
def test_a_hello_that_lacks_a_field_is_refused_by_name(field):
    fields = {name: value for name, value in HELLO_FIELDS.items() if name != field}
    with pytest.raises(ProtocolError, match=field):
        decode_hello(json_frame(FrameKind.HELLO, fields))


def test_a_hello_with_a_field_too_many_is_refused():
    with pytest.raises(ProtocolError, match="surplus"):
        decode_hello(json_frame(FrameKind.HELLO, HELLO_FIELDS | {"surplus": 1}))


def test_another_kind_where_a_hello_was_expected_is_refused():
    with pytest.raises(ProtocolError, match="WELCOME where HELLO was expected"):
        decode_hello(reassemble([encode_welcome(Welcome(shard="s", epochs=[], max_frames=1))]))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"1"])
def test_a_hello_that_is_no_json_object_is_refused(data):
    (message,) = encode(FrameHeader(kind=FrameKind.HELLO), [(Section.JSON, data)])
    with pytest.raises(ProtocolError, match="JSON"):
        decode_hello(reassemble([message]))
    (message,) = encode(FrameHeader(kind=FrameKind.HELLO), [])
    with pytest.raises(ProtocolError, match="JSON"):
        decode_hello(reassemble([message]))
