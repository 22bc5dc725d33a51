"""Writes the files of a checkpoint: each under a name of its own first, then in one step.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shards.checkpoint.names import Shape
from shards.checkpoint.safetensors_header import ITEM_BYTES, LENGTH_BYTES, METADATA

HEADER_ALIGNMENT = 8


class TensorSpec(NamedTuple):
    """What the header says of one tensor."""

    dtype: str  # as safetensors spells it
    shape: Shape

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def refuse_existing(directory: Path) -> None:
    """Raise FileExistsError where a checkpoint of either layout is already."""
    for name in ("config.json", "params.json"):
        if (directory / name).exists():
            raise FileExistsError(str(directory / name))


def write_safetensors(
    path: Path, specs: Mapping[str, TensorSpec], data: Iterable[torch.Tensor]
) -> None:
    """Write one file; nothing is left of it if ``data`` raises.

    Args:
        path: Replaced if it is there.
        specs: The tensors by name, in the order of their data.
        data: All data in that order, each tensor in one piece or several, of any shape.

    Raises:
        ValueError: The data are not as long as the header says.
    """
    with _replacing(path) as part, part.open("wb") as file:
        file.write(header_bytes(specs))
        written = 0
        for piece in data:
            raw = piece.contiguous().reshape(-1).view(torch.uint8)
            written += file.write(raw.numpy().data)
        expected = sum(spec.num_bytes for spec in specs.values())
        if written != expected:
            raise ValueError(f"{path.name}: {expected} bytes of data expected, got {written}")


def header_bytes(specs: Mapping[str, TensorSpec]) -> bytes:
    """Length and header of a file; JSON without blanks, but for up to seven at its end."""
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    start = 0
    for name, spec in specs.items():
        end = start + spec.num_bytes
        offsets = [start, end]
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that people can read."""
    with _replacing(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
