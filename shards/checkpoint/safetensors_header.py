"""Reads and checks the header of one safetensors file.

Source: https://github.com/huggingface/safetensors, section "Format": 8 bytes length, little endian;
a JSON object of that length; the data, without holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, TypeGuard

from galerne.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class TensorEntry(NamedTuple):
    """One tensor of a file. ``start`` and ``end`` count bytes from the beginning of the file."""

    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return self.end - self.start


def read_header(file: BinaryIO, name: str, file_bytes: int) -> dict[str, TensorEntry]:
    """Entries of an open safetensors file, by tensor name, in the order of their data.

    Args:
        file: Positioned at its first byte.
        name: What errors call the file.
        file_bytes: Size of the file.

    Raises:
        CheckpointError: The header is damaged, or the data do not fill the file exactly.
    """
    if file_bytes < LENGTH_BYTES:
        raise CheckpointError(name, None, f"at least {LENGTH_BYTES} bytes", f"{file_bytes} bytes")
    header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if header_bytes > MAX_HEADER_BYTES:
        expected = f"a header of at most {MAX_HEADER_BYTES} bytes"
        raise CheckpointError(name, None, expected, f"{header_bytes} bytes")
    data_start = LENGTH_BYTES + header_bytes
    if data_start > file_bytes:
        expected = f"at least {data_start} bytes, as the header's length says"
        raise CheckpointError(name, None, expected, f"{file_bytes} bytes")
    header = _parse_object(file.read(header_bytes), name)
    entries = {
        tensor: _parse_entry(name, tensor, value, data_start)
        for tensor, value in header.items()
        if tensor != METADATA
    }
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_cover(name, ordered, data_start, file_bytes)
    return ordered


def _parse_object(raw: bytes, name: str) -> dict[str, object]:
    def refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in pairs:
            if key in result:
                raise CheckpointError(name, key, "one entry in the header", "two")
            result[key] = value
        return result

    try:
        header = json.loads(raw, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(name, None, "a header in JSON", f"{error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(name, None, "a JSON object as header", type(header).__name__)
    return header


def _parse_entry(name: str, tensor: str, value: object, data_start: int) -> TensorEntry:
    if not isinstance(value, dict):
        raise CheckpointError(name, tensor, "a JSON object in the header", f"{value!r:.80}")
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(name, tensor, f"a dtype out of {' '.join(ITEM_BYTES)}", f"{dtype!r}")
    if not _is_counts(shape):
        raise CheckpointError(name, tensor, "a shape of whole numbers", f"{shape!r:.80}")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(name, tensor, "two ascending data_offsets", f"{offsets!r:.80}")
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        what = f"{expected} bytes for {dtype} {list(shape)}"
        raise CheckpointError(name, tensor, what, f"{offsets[1] - offsets[0]} bytes")
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_cover(
    name: str, entries: Mapping[str, TensorEntry], data_start: int, file_bytes: int
) -> None:
    position = data_start
    for tensor, entry in entries.items():
        if entry.start != position:
            expected = f"data from byte {position}, where the tensor before ends"
            raise CheckpointError(name, tensor, expected, f"byte {entry.start}")
        position = entry.end
    beyond = next((tensor for tensor, e in entries.items() if e.end > file_bytes), None)
    if position != file_bytes:
        raise CheckpointError(name, beyond, f"{position} bytes", f"{file_bytes} bytes")
