"""Frames as records of a ring. No checksum: nothing lies between the two processes."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import ProtocolError
from galerne.frame import NO_CREDIT, DType, FrameHeader, FrameKind
from galerne.ids import FrameId
from shards.adapters.tokens import TokenAdapters
from shards.shm.rings import RingReader, RingWriter
from shards.times import NO_TIMES, ShardTimes, times_of
from shards.wire import TORCH_DTYPE, WIRE_DTYPE, Ints, RequestRows, check_request

_RECORD = struct.Struct("<II IIQQIIIIIIII")  # bytes, kind, and of the frame's header
_ALIGNMENT = 64
_FRAME, _ADAPTED = 1, 2  # kinds of ``native/ring.h``
_KEY_BYTES = 8


def write_request(
    ring: RingWriter, header: FrameHeader, rows: RequestRows, which: Ints | None = None
) -> bool:
    """Write a request; False if there is no room.

    Args:
        ring: Where to.
        header: Its numbers of tokens and rows are those of the frame.
        rows: Its tokens ``[N, H]`` are contiguous; its adapters are those of the frame's tokens.
        which: ``[T]`` the tokens to send; None: all.
    """
    indices = (rows.expert_ids, rows.num_rows_by_group, rows.row_token)
    record = _record(header, num_groups=len(rows.expert_ids))
    return _send(ring, record, rows.tokens, header.num_tokens, indices, which, rows.adapters)


def write_reply(
    ring: RingWriter, request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
) -> bool:
    """Write the contiguous results ``[R, H]`` of a request; False if there is no room.

    The record tells the times in fields that only a request needs: numbers of tokens and groups.
    """
    queue_us, service_us = times.as_us
    header = replace(
        request,
        num_tokens=queue_us,
        num_rows=len(rows),
        hidden_size=rows.shape[1],
        dtype=WIRE_DTYPE[rows.dtype],
    )
    return _send(ring, _record(header, num_groups=service_us), rows, len(rows))


def _record(header: FrameHeader, num_groups: int = 0) -> bytes:
    return _RECORD.pack(
        *(0, 0),
        *(header.frame, header.layer, header.epoch, header.step, header.attempt),
        *(header.micro_batch, header.dtype, header.num_tokens, num_groups, header.num_rows),
        *(header.hidden_size, _now_us()),
    )


def _send(
    ring: RingWriter,
    record: bytes,
    rows: torch.Tensor,
    num_rows: int,
    indices: tuple[Ints, Ints, Ints] | None = None,
    which: Ints | None = None,
    keys: TokenAdapters | None = None,
) -> bool:
    row_bytes = rows.shape[1] * rows.element_size()
    return ring.send(record, rows.data_ptr(), num_rows, row_bytes, indices, which, keys)


class _Record(NamedTuple):
    header: FrameHeader
    has_adapters: bool
    num_groups: int
    content: int  # where in the map it starts
    end: int
    written_us: int  # when, by the host's clock, modulo 2**32


def _read(ring: RingReader, at: tuple[int, int], kind: FrameKind, incarnation: int = 0) -> _Record:
    """Raises ProtocolError for what no frame could say."""
    start, end = at
    fields = _RECORD.unpack_from(ring.memory.map.data, start)
    _, is_a, frame, layer, epoch, step, attempt, micro, dtype, tokens, groups, rows, hidden, us = (
        fields
    )
    if is_a not in ((_FRAME, _ADAPTED) if kind is FrameKind.REQUEST else (_FRAME,)):
        raise ProtocolError(f"shared memory: frame {frame} is of no kind that can be here")
    if epoch >= 1 << 32 or max(layer, micro, attempt) >= 1 << 16:
        raise ProtocolError(f"shared memory: frame {frame} has numbers that no header holds")
    try:
        wire_dtype = DType(dtype)
    except ValueError as error:
        raise ProtocolError(f"shared memory: {error}") from error
    header = FrameHeader(
        kind=kind,
        flags=NO_CREDIT,
        incarnation=incarnation,
        epoch=epoch,
        step=step,
        frame=frame,
        layer=layer,
        micro_batch=micro,
        attempt=attempt,
        dtype=wire_dtype,
        num_tokens=tokens,
        num_rows=rows,
        hidden_size=hidden,
    )
    return _Record(header, is_a == _ADAPTED, groups, start + _RECORD.size, end, us)


class Request(NamedTuple):
    """A frame to compute, out of a ring."""

    header: FrameHeader
    rows: RequestRows
    age_s: float  # how long it has been there


def read_request(ring: RingReader, at: tuple[int, int], incarnation: int) -> Request:
    """The request that lies ``at``; its tokens are a view, valid until the ring is freed.

    ``incarnation`` is that of the gateway whose ring it is.

    Raises:
        ProtocolError: It contradicts itself.
    """
    record = _read(ring, at, FrameKind.REQUEST, incarnation)
    header, num_groups, start = record.header, record.num_groups, record.content
    num_indices = 2 * num_groups + header.num_rows
    data = -(-(start + 4 * num_indices) // _ALIGNMENT) * _ALIGNMENT
    keys_at = _check_fits(data, header.num_tokens, header, record.end)
    # A copy before it is checked: the memory is not ours alone.
    indices = np.frombuffer(ring.memory.map, "<u4", num_indices, start).astype(np.int64)
    experts, counts, row_token = np.split(indices, (num_groups, 2 * num_groups))
    tokens = _view(ring.memory.map, data, header.num_tokens, header)
    keys = None
    if record.has_adapters:
        if keys_at + _KEY_BYTES * header.num_tokens > record.end:
            raise _too_large(header)
        keys = np.frombuffer(ring.memory.map, "<u8", header.num_tokens, keys_at).copy()
    rows = RequestRows(tokens, experts, counts, row_token, keys)
    check_request(header, rows)
    return Request(header, rows, _age_s(record.written_us))


class Reply(NamedTuple):
    """An answer out of a ring."""

    frame: FrameId
    rows: torch.Tensor  # [R, H], a copy
    age_s: float  # how long it has been there
    times: ShardTimes


def read_reply(ring: RingReader, at: tuple[int, int]) -> Reply:
    """The reply that lies ``at``.

    Raises:
        ProtocolError: It contradicts itself.
    """
    record = _read(ring, at, FrameKind.REPLY)
    header = record.header
    _check_fits(record.content, header.num_rows, header, record.end)
    rows = _view(ring.memory.map, record.content, header.num_rows, header).clone()
    times = times_of(header.num_tokens, record.num_groups)
    return Reply(FrameId(header.frame), rows, _age_s(record.written_us), times)


def _age_s(written_us: int) -> float:
    return (_now_us() - written_us) % (1 << 32) / 1e6


def _now_us() -> int:
    """The clock that all processes of a host share, as ``native/ring.h`` reads it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 % (1 << 32)


def _check_fits(start: int, num_rows: int, header: FrameHeader, end: int) -> int:
    """Where the rows end, at a place for keys."""
    row_bytes = header.hidden_size * TORCH_DTYPE[header.dtype].itemsize
    if start + num_rows * row_bytes > end:
        raise _too_large(header)
    return start + -(-num_rows * row_bytes // _KEY_BYTES) * _KEY_BYTES


def _too_large(header: FrameHeader) -> ProtocolError:
    return ProtocolError(f"shared memory: frame {header.frame} is larger than its record")


def _view(
    map_: npt.NDArray[np.uint8], start: int, num_rows: int, header: FrameHeader
) -> torch.Tensor:
    dtype, shape = TORCH_DTYPE[header.dtype], (num_rows, header.hidden_size)
    if not num_rows * header.hidden_size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(map_, dtype=dtype, count=shape[0] * shape[1], offset=start).view(shape)
