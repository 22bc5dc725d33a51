"""Announcements of turns on the stream: requests without tokens, and turns without a request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from galerne.errors import LinkAbortedError, ProtocolError
from galerne.frame import (
    BY_NCCL,
    NO_CREDIT,
    Buffer,
    Frame,
    FrameHeader,
    FrameKind,
    Section,
    encode,
)
from galerne.hello import encode_json, read_json
from galerne.ids import FrameId
from shards.nccl.turns import Turn
from shards.times import ShardTimes, reply_header
from shards.wire import TORCH_DTYPE, Indices, check_indices, index_sections, read_indices

MAX_ROWS_BYTES = 256 << 20  # of one frame's tokens, or of its results


def encode_request(header: FrameHeader, indices: Indices, turn: Turn) -> list[bytes]:
    """A request whose tokens go in ``turn``."""
    sections = [*index_sections(indices), (Section.TURN, _numbers(turn))]
    return encode(replace(header, flags=BY_NCCL), sections)


def encode_turn(incarnation: int, turn: Turn) -> list[bytes]:
    """A turn in which nothing goes to the shard."""
    header = FrameHeader(kind=FrameKind.TURN, incarnation=incarnation, flags=BY_NCCL | NO_CREDIT)
    return encode(header, [(Section.TURN, _numbers(turn))])


def read_turn(frame: Frame) -> Turn:
    """The turn that a request or an announcement tells of.

    Raises:
        ProtocolError: It tells of none.
    """
    section = frame.sections.get(Section.TURN)
    if section is None or len(section) < 8 or len(section) % 8:
        raise ProtocolError(f"{frame.header.kind.name} by NCCL without a turn")
    number, *answers = np.frombuffer(section, "<u8").tolist()
    sent = frame.header.frame if frame.header.kind is FrameKind.REQUEST else None
    return Turn(number, None if sent is None else FrameId(sent), tuple(map(FrameId, answers)))


def read_request_indices(frame: Frame) -> Indices:
    """What a request says of the tokens that go by NCCL.

    Raises:
        ProtocolError: It contradicts itself, or the frame is too large.
    """
    header = frame.header
    indices = read_indices(frame)
    check_indices(header, indices)
    largest = max(header.num_tokens, header.num_rows)
    num_bytes = largest * header.hidden_size * TORCH_DTYPE[header.dtype].itemsize
    if not 0 < num_bytes <= MAX_ROWS_BYTES or not min(header.num_tokens, header.num_rows):
        raise ProtocolError(f"frame {header.frame}: {num_bytes} bytes cannot go by NCCL")
    return indices


def encode_reply_head(request: FrameHeader, times: ShardTimes) -> list[bytes]:
    """The results of a request are there: their rows come in the turn that asks for them."""
    return encode(reply_header(request, times), [])


def encode_abort(incarnation: int, reason: str) -> list[bytes]:
    """Nothing more goes by NCCL on this link."""
    flags = BY_NCCL | NO_CREDIT
    header = FrameHeader(kind=FrameKind.LINK_ABORT, incarnation=incarnation, flags=flags)
    return [encode_json(header, {"reason": reason})]


def read_abort(frame: Frame) -> LinkAbortedError:
    """Why the peer gave up. Raises ProtocolError if it does not say."""
    return LinkAbortedError(str(read_json(frame, FrameKind.LINK_ABORT).get("reason")))


def _numbers(turn: Turn) -> Buffer:
    return np.array([turn.number, *turn.answers], "<u8").tobytes()
