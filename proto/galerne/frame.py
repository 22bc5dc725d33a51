"""The exchange frame: what a gateway and a shard say to each other, as bytes.

A frame is a fixed little-endian header and a payload of sections. A long payload travels as several
chunks, each a header of its own with its part of the payload and a CRC32C over both, so one message
never exceeds the chunk limit. Layout and fields: design section 6.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from galerne.crc32c import crc32c
from galerne.errors import ProtocolError

MAGIC = 0x46524C47  # "GLRF"
VERSION = 6
MAX_CHUNK_BYTES = 1 << 20  # 64 KiB to 1 MiB is the sweet spot of gRPC streams
_HEADER = struct.Struct("<IHHBBHHHIQIQIHHHIIIII")
HEADER_BYTES = _HEADER.size
_CRC = struct.Struct("<I")  # last field of the header
_SECTION = struct.Struct("<HHI")
_MAX_SECTIONS = 16
NO_CREDIT = 1  # flag: answers no request of the stream, so gives none of its credits back
BY_NCCL = 2  # flag: the frame's rows do not travel with it, but from GPU to GPU

Buffer: TypeAlias = bytes | bytearray | memoryview


class FrameKind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    REQUEST = 3
    REPLY = 4
    REFUSAL = 5
    ADOPTED = 6  # from a shard: all the experts that it holds for others
    TURN = 7  # from a gateway: what goes next between the GPUs, without a request
    LINK_ABORT = 8  # from either: nothing more goes between the GPUs on this link


class DType(enum.IntEnum):
    """Number format of token and result rows."""

    BF16 = 1
    FLOAT32 = 2


class Section(enum.IntEnum):
    """Parts of a payload."""

    JSON = 1  # hello, welcome, refusal, end of a link
    EXPERT_IDS = 2  # uint32 [G], one per group of rows
    ROW_COUNTS = 3  # uint32 [G], rows of every group
    ROW_TOKENS = 4  # uint32 [R], the frame's token of every row
    TOKENS = 5  # [T, H], each token once
    ROWS = 6  # [R, H], one unweighted result per row
    ADAPTERS = 7  # uint64 [T], key of every token's adapter, 0: none; left out where all are 0
    TURN = 8  # uint64 [1 + A], number of the turn, frames whose rows come back in it


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """Fixed part of every chunk.

    A reply tells its times in two fields that only a request needs, in microseconds: how long the
    frame waited at the shard in ``num_tokens``, how long it was computed in ``gateway``.
    """

    kind: FrameKind
    gateway: int = 0
    incarnation: int = 0  # new at every start of a gateway
    epoch: int = 0
    step: int = 0
    frame: int = 0
    layer: int = 0
    micro_batch: int = 0
    attempt: int = 0
    dtype: DType = DType.BF16
    num_tokens: int = 0
    num_rows: int = 0
    hidden_size: int = 0
    flags: int = 0
    chunk: int = 0
    num_chunks: int = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame."""

    header: FrameHeader
    sections: Mapping[Section, memoryview]


def encode(
    header: FrameHeader,
    sections: Sequence[tuple[Section, Buffer]],
    max_chunk_bytes: int = MAX_CHUNK_BYTES,
) -> list[bytes]:
    """A frame as one or more messages of at most ``max_chunk_bytes`` + header."""
    table = b"".join(_SECTION.pack(kind, 0, len(data)) for kind, data in sections)
    payload = b"".join((struct.pack("<I", len(sections)), table, *(d for _, d in sections)))
    view = memoryview(payload)
    num_chunks = max(1, -(-len(payload) // max_chunk_bytes))
    messages = []
    for chunk in range(num_chunks):
        part = view[chunk * max_chunk_bytes : (chunk + 1) * max_chunk_bytes]
        messages.append(_message(replace(header, chunk=chunk, num_chunks=num_chunks), part))
    return messages


def _message(h: FrameHeader, part: memoryview) -> bytes:
    fields = _HEADER.pack(
        MAGIC, VERSION, h.flags, h.kind, h.dtype, h.chunk, h.num_chunks, 0, h.gateway,
        h.incarnation, h.epoch, h.step, h.frame, h.layer, h.micro_batch, h.attempt,
        h.num_tokens, h.num_rows, h.hidden_size, len(part), 0,
    )[:-_CRC.size]  # fmt: skip
    data = bytes(part)
    return b"".join((fields, _CRC.pack(_checksum(fields, data)), data))


def _checksum(fields: bytes, part: bytes) -> int:
    """Over the header as well: a wrong layer or frame number is as bad as a wrong row."""
    return crc32c(fields, part)


def decode_chunk(message: bytes) -> tuple[FrameHeader, memoryview]:
    """Header and payload part of one message.

    Raises:
        ProtocolError: Wrong magic, version, length, checksum or enum value.
    """
    if len(message) < HEADER_BYTES:
        raise ProtocolError(f"message of {len(message)} bytes is shorter than a header")
    (
        magic, version, flags, kind, dtype, chunk, num_chunks, _, gateway, incarnation, epoch,
        step, frame, layer, micro_batch, attempt, num_tokens, num_rows, hidden, length, crc,
    ) = _HEADER.unpack_from(message)  # fmt: skip
    if magic != MAGIC:
        raise ProtocolError(f"magic {magic:#x} is not that of a frame")
    if version != VERSION:
        raise ProtocolError(f"frame version {version}, expected {VERSION}")
    part = memoryview(message)[HEADER_BYTES:]
    if len(part) != length:
        raise ProtocolError(f"payload of {len(part)} bytes, header says {length}")
    if _checksum(message[: HEADER_BYTES - _CRC.size], bytes(part)) != crc:
        raise ProtocolError("checksum differs")
    if not chunk < num_chunks:
        raise ProtocolError(f"chunk {chunk} of {num_chunks}")
    try:
        header = FrameHeader(
            kind=FrameKind(kind), gateway=gateway, incarnation=incarnation, epoch=epoch,
            step=step, frame=frame, layer=layer, micro_batch=micro_batch, attempt=attempt,
            dtype=DType(dtype), num_tokens=num_tokens, num_rows=num_rows, hidden_size=hidden,
            flags=flags, chunk=chunk, num_chunks=num_chunks,
        )  # fmt: skip
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return header, part


class Reassembler:
    """Joins the chunks of one stream, which arrive in order, into frames."""

    def __init__(self, max_frame_bytes: int) -> None:
        """``max_frame_bytes`` bounds what an unfinished frame may hold."""
        self._max_frame_bytes = max_frame_bytes
        self._first: FrameHeader | None = None
        self._parts: list[memoryview] = []

    def push(self, message: bytes) -> Frame | None:
        """Take one message; the frame if it is complete now.

        Raises:
            ProtocolError: A damaged message, a chunk out of order, or a frame that is too large.
        """
        header, part = decode_chunk(message)
        first = self._first
        if header.chunk != len(self._parts) or (
            first is not None and replace(header, chunk=0) != first
        ):
            raise ProtocolError(f"chunk {header.chunk} of frame {header.frame} is out of order")
        self._parts.append(part)
        if sum(map(len, self._parts)) > self._max_frame_bytes:
            raise ProtocolError(f"frame exceeds {self._max_frame_bytes} bytes")
        self._first = first or header
        if len(self._parts) < header.num_chunks:
            return None
        parts, first = self._parts, self._first
        self._parts, self._first = [], None
        return Frame(first, _sections(parts[0] if len(parts) == 1 else memoryview(b"".join(parts))))


def _sections(payload: memoryview) -> dict[Section, memoryview]:
    if len(payload) < 4:
        raise ProtocolError("payload has no section table")
    (count,) = struct.unpack_from("<I", payload)
    offset = 4 + count * _SECTION.size
    if count > _MAX_SECTIONS or offset > len(payload):
        raise ProtocolError(f"section table of {count} entries does not fit")
    sections: dict[Section, memoryview] = {}
    for index in range(count):
        kind, _, length = _SECTION.unpack_from(payload, 4 + index * _SECTION.size)
        if offset + length > len(payload):
            raise ProtocolError(f"section {kind} runs past the payload")
        if kind in sections:
            raise ProtocolError(f"section {kind} is there twice")
        try:
            sections[Section(kind)] = payload[offset : offset + length]
        except ValueError as error:
            raise ProtocolError(f"section kind {kind} is unknown") from error
        offset += length
    if offset != len(payload):
        raise ProtocolError(f"{len(payload) - offset} bytes after the last section")
    return sections
