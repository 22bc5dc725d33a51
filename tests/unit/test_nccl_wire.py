"""What announces turns on the stream comes back as it was put there, and nonsense is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galerne.errors import ProtocolError
from galerne.frame import BY_NCCL, NO_CREDIT, DType, FrameHeader, FrameKind, Reassembler, Section
from shards.nccl.turns import Turn
from shards.nccl.wire import (
    MAX_ROWS_BYTES,
    encode_request,
    encode_turn,
    read_request_indices,
    read_turn,
)
from shards.wire import Indices

NUMBERS = st.integers(1, 2**63 - 1)


def received(messages):
    (frame,) = filter(None, map(Reassembler(1 << 30).push, messages))
    return frame


def request(num_tokens=2, hidden_size=8, rows=(0, 1, 1), dtype=DType.BF16):
    header = FrameHeader(
        kind=FrameKind.REQUEST,
        frame=7,
        dtype=dtype,
        num_tokens=num_tokens,
        num_rows=len(rows),
        hidden_size=hidden_size,
    )
    indices = Indices(np.array([3]), np.array([len(rows)]), np.array(rows, dtype=np.int64))
    return received(encode_request(header, indices, Turn(5, 7, (1, 2))))


@given(NUMBERS, st.lists(NUMBERS, max_size=9))
def test_turns_come_back_as_they_were_announced(number, answers):
    turn = Turn(number, None, tuple(answers))
    frame = received(encode_turn(9, turn))
    assert read_turn(frame) == turn
    assert frame.header.flags == BY_NCCL | NO_CREDIT


def test_a_request_tells_its_turn_and_its_rows_and_carries_no_token():
    frame = request()
    assert read_turn(frame) == Turn(5, 7, (1, 2))
    assert read_request_indices(frame).row_token.tolist() == [0, 1, 1]
    assert frame.header.flags == BY_NCCL
    assert Section.TOKENS not in frame.sections


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_tokens": 0, "rows": ()}, "cannot go by NCCL"),
        ({"rows": ()}, "cannot go by NCCL"),
        ({"hidden_size": 0}, "0 bytes cannot go"),
        ({"num_tokens": MAX_ROWS_BYTES // 16 + 1}, "cannot go by NCCL"),
        ({"num_tokens": 1}, "names a token that the frame lacks"),
    ],
    ids=["no tokens", "no rows", "no width", "too many", "a token too many"],
)
def test_a_frame_that_nccl_cannot_carry_is_refused_by_name(fields, said):
    with pytest.raises(ProtocolError, match=said):
        read_request_indices(request(**fields))


def test_the_largest_frame_is_taken():
    read_request_indices(request(num_tokens=MAX_ROWS_BYTES // 16))
