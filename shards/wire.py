"""Tensors and index arrays as frame sections, and back. Copies only where memory must change."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import ProtocolError
from galerne.frame import Buffer, DType, Frame, FrameHeader, Section, encode
from shards.adapters.tokens import TokenAdapters
from shards.times import NO_TIMES, ShardTimes, reply_header

Ints = npt.NDArray[np.int64]

TORCH_DTYPE = {DType.BF16: torch.bfloat16, DType.FLOAT32: torch.float32}
WIRE_DTYPE = {dtype: wire for wire, dtype in TORCH_DTYPE.items()}


class Indices(NamedTuple):
    """What a request says of its tokens. T tokens, G groups, R rows."""

    expert_ids: Ints  # [G]
    num_rows_by_group: Ints  # [G]
    row_token: Ints  # [R]
    adapters: TokenAdapters | None = None  # [T]; None: nobody has one


class RequestRows(NamedTuple):
    """A request frame's payload. T tokens, G groups, R rows, H hidden."""

    tokens: torch.Tensor  # [T, H]
    expert_ids: Ints  # [G]
    num_rows_by_group: Ints  # [G]
    row_token: Ints  # [R]
    adapters: TokenAdapters | None = None  # [T]; None: nobody has one

    @property
    def indices(self) -> Indices:
        """All but the tokens."""
        return Indices(*self[1:])


def tensor_bytes(x: torch.Tensor) -> Buffer:
    """The bytes of a tensor, without a copy where it is contiguous and on the CPU already."""
    if not x.numel():
        return b""
    return x.cpu().contiguous().view(torch.uint8).numpy().data.cast("B")


def index_bytes(values: Ints) -> Buffer:
    """Index array as little-endian uint32."""
    return values.astype("<u4").tobytes()


def tensor_of(section: memoryview, shape: tuple[int, int], dtype: DType) -> torch.Tensor:
    """A read-only view of the section as ``shape``.

    Raises:
        ProtocolError: The section has another size.
    """
    torch_dtype = TORCH_DTYPE[dtype]
    if len(section) != shape[0] * shape[1] * torch_dtype.itemsize:
        raise ProtocolError(f"{len(section)} bytes do not hold {shape} of {dtype.name}")
    if not len(section):
        return torch.empty(shape, dtype=torch_dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the buffer is read-only, and so are we
        return torch.frombuffer(section, dtype=torch_dtype).view(shape)


def request_sections(rows: RequestRows) -> list[tuple[Section, Buffer]]:
    """Sections of a request."""
    return [*index_sections(rows.indices), (Section.TOKENS, tensor_bytes(rows.tokens))]


def index_sections(indices: Indices) -> list[tuple[Section, Buffer]]:
    """Sections of a request, all but its tokens."""
    sections: list[tuple[Section, Buffer]] = [
        (Section.EXPERT_IDS, index_bytes(indices.expert_ids)),
        (Section.ROW_COUNTS, index_bytes(indices.num_rows_by_group)),
        (Section.ROW_TOKENS, index_bytes(indices.row_token)),
    ]
    if indices.adapters is not None:
        sections.append((Section.ADAPTERS, indices.adapters.astype("<u8").tobytes()))
    return sections


def encode_reply(
    request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
) -> list[bytes]:
    """The results ``[R, H]`` of a request as messages."""
    header = replace(
        reply_header(request, times),
        dtype=WIRE_DTYPE[rows.dtype],
        num_rows=rows.shape[0],
        hidden_size=rows.shape[1],
    )
    return encode(header, [(Section.ROWS, tensor_bytes(rows))])


def read_request(frame: Frame) -> RequestRows:
    """Payload of a request.

    Raises:
        ProtocolError: A section is missing or contradicts the header or another section.
    """
    header, indices = frame.header, read_indices(frame)
    tokens = frame.sections.get(Section.TOKENS)
    if tokens is None:
        raise ProtocolError(f"request without section {Section.TOKENS!r}")
    shape = (header.num_tokens, header.hidden_size)
    rows = RequestRows(tensor_of(tokens, shape, header.dtype), *indices)
    check_request(header, rows)
    return rows


def read_indices(frame: Frame) -> Indices:
    """Payload of a request, all but its tokens, not yet checked.

    Raises:
        ProtocolError: A section is missing, or holds no indices.
    """
    try:
        experts, counts, row_token = (
            np.frombuffer(frame.sections[kind], dtype="<u4").astype(np.int64)
            for kind in (Section.EXPERT_IDS, Section.ROW_COUNTS, Section.ROW_TOKENS)
        )
        adapters = frame.sections.get(Section.ADAPTERS)
        keys = None if adapters is None else np.frombuffer(adapters, "<u8").astype(np.uint64)
    except KeyError as error:
        raise ProtocolError(f"request without section {error}") from error
    except ValueError as error:
        raise ProtocolError(f"index section: {error}") from error
    return Indices(experts, counts, row_token, keys)


def check_request(header: FrameHeader, rows: RequestRows) -> None:
    """Raises ProtocolError if the indices contradict the header or one another."""
    check_indices(header, rows.indices)


def check_indices(header: FrameHeader, indices: Indices) -> None:
    """Raises ProtocolError if they contradict the header or one another."""
    row_token, counts = indices.row_token, indices.num_rows_by_group
    if len(indices.expert_ids) != len(counts) or counts.sum() != len(row_token):
        raise ProtocolError("groups, row counts and rows contradict one another")
    if len(row_token) != header.num_rows:
        raise ProtocolError(f"{len(row_token)} rows, header says {header.num_rows}")
    if len(row_token) and row_token.max() >= header.num_tokens:
        raise ProtocolError("a row names a token that the frame lacks")
    if indices.adapters is not None and len(indices.adapters) != header.num_tokens:
        raise ProtocolError(f"{len(indices.adapters)} adapters of {header.num_tokens} tokens")
