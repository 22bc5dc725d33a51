"""A memory-mapped safetensors file that hands out views and counts what it handed out."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from galerne.errors import CheckpointError
from shards.checkpoint.safetensors_header import TensorEntry, read_header

if TYPE_CHECKING:
    import torch

# Names of torch's, which is loaded when the first tensor is asked for: headers need none of it.
_DTYPES: Mapping[str, str] = {
    "BF16": "bfloat16",
    "F16": "float16",  # of adapters; a checkpoint's weights are refused
    "F32": "float32",
    "F8_E4M3": "float8_e4m3fn",
    "I8": "int8",
    "U8": "uint8",
}

# Writable for torch's sake (it warns of read-only memory), private so that nothing reaches the
# file, and without reserving swap: a file may be larger than the machine's memory.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_FLAGS = mmap.MAP_PRIVATE | _MAP_NORESERVE
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE


def _torch_dtype(name: str) -> torch.dtype:
    """By its name in a file."""
    import torch

    dtype: torch.dtype = getattr(torch, _DTYPES[name])
    return dtype


class SafetensorsFile:
    """One checked file. Opening it reads its header only.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                file_bytes = os.fstat(file.fileno()).st_size
                self.entries: Mapping[str, TensorEntry] = read_header(file, str(path), file_bytes)
                self._map = mmap.mmap(file.fileno(), 0, flags=_FLAGS, prot=_PROTECTION)
        except OSError as error:
            found = error.strerror or str(error)
            raise CheckpointError(str(path), None, "a readable file", found) from error
        self._handed_out: set[tuple[int, int]] = set()

    @property
    def bytes_read(self) -> int:
        """Bytes of tensor data handed out by ``tensor``, each range counted once."""
        return sum(end - start for start, end in tuple(self._handed_out))

    def tensor(self, name: str, index: int | None = None) -> torch.Tensor:
        """A tensor as a view of the file, or, with ``index``, one slice along its first axis.

        Pages outside of the view are not touched. Data that are not aligned to their dtype are
        copied. Raises KeyError for an unknown name and IndexError for an index outside.
        """
        entry = self.entries[name]
        shape, start, end = entry.shape, entry.start, entry.end
        if index is not None:
            if not 0 <= index < shape[0]:
                raise IndexError(f"{name} has {shape[0]} slices, asked for {index}")
            num_bytes = entry.num_bytes // shape[0]
            shape, start = shape[1:], start + index * num_bytes
            end = start + num_bytes
        self._handed_out.add((start, end))
        return self._view(_torch_dtype(entry.dtype), shape, start, end)

    def release(self) -> None:
        """Give back the pages read so far; a view reads them again when it is used."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def read(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        """Small pieces of the file, ``[start, end)`` each, read apart from the mapping.

        Not counted as handed out. The kernel is told not to read ahead, so that a look at a few
        bytes does not pull in the weights around them.
        """
        with self.path.open("rb", buffering=0) as file:
            fd = file.fileno()
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            return [os.pread(fd, end - start, start) for start, end in ranges]

    def _view(
        self, dtype: torch.dtype, shape: tuple[int, ...], start: int, end: int
    ) -> torch.Tensor:
        import torch

        if start % dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=end - start, offset=start)
            return raw.clone().view(dtype).reshape(shape)
        flat = torch.frombuffer(self._map, dtype=dtype, count=math.prod(shape), offset=start)
        return flat.reshape(shape)
