"""Reads and writes small checkpoints byte by byte, apart from the code under test."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parents[1] / "fixtures"
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F8_E4M3": 1}


class StoredTensor(NamedTuple):
    """One tensor, raw."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def copy_fixture(name: str, directory: Path) -> Path:
    """A writable copy of a fixture checkpoint, below ``directory``."""
    return Path(shutil.copytree(FIXTURES / name, directory / name))


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            entry["dtype"],
            tuple(entry["shape"]),
            raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def write_tensors(path: Path, tensors: dict[str, StoredTensor]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    write_raw(path, json.dumps(header).encode(), b"".join(t.data for t in tensors.values()))


def write_raw(path: Path, header: bytes, data: bytes = b"") -> None:
    """Write a file with any header."""
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def edit_header(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of a file and leave its data as they are."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    edit(header)
    write_raw(path, json.dumps(header).encode(), raw[start:])


def edit_json(path: Path, *keys: str, value: object) -> None:
    """Set one value of a JSON file; None deletes the key."""
    content = inner = json.loads(path.read_text("utf-8"))
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    if value is None:
        del inner[keys[-1]]
    path.write_text(json.dumps(content), "utf-8")


def truncate(path: Path, num_bytes: int) -> None:
    """Cut ``num_bytes`` off a file's end."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - num_bytes)


def replace_tensor(path: Path, name: str, tensor: StoredTensor | None) -> None:
    """Replace or add a tensor; None removes it."""
    tensors = read_tensors(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    write_tensors(path, tensors)


def zeros(dtype: str, *shape: int) -> StoredTensor:
    """A tensor of zeros."""
    return StoredTensor(dtype, shape, bytes(math.prod(shape) * ITEM_BYTES[dtype]))


def bf16_scales(bits: int, *shape: int) -> StoredTensor:
    """A tensor of one bf16 value, given as its 16 bits."""
    return StoredTensor("BF16", shape, bits.to_bytes(2, "little") * math.prod(shape))


def split_in_two(directory: Path, stem: str = "model") -> tuple[Path, Path]:
    """Turn a checkpoint of one file into two and an index."""
    whole = directory / f"{stem}.safetensors"
    items = list(read_tensors(whole).items())
    paths = tuple(directory / f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2))
    halves = dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
    for path, half in zip(paths, halves, strict=True):
        write_tensors(path, half)
    weight_map = {
        name: path.name for path, half in zip(paths, halves, strict=True) for name in half
    }
    index = directory / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    whole.unlink()
    return paths[0], paths[1]
