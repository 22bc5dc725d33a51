"""Memory in huge pages, for weights and caches: a pass over them misses no page table on its way.

Measured on the 1b: an expert layer takes 6 % (bf16) to 3 % (int4) less time than with small pages.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from typing import Final

import torch

_CHUNK_BYTES: Final = 32 << 20
_HUGE_PAGE: Final = 2 << 20
_ALIGNMENT: Final = 64


class Arena:
    """Hands out pieces of large chunks; a chunk goes back with the last piece of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk = torch.empty(0, dtype=torch.uint8)

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """A copy of a uint8 tensor. The room up to the next 64 bytes after it is part of it."""
        num_bytes = -(-source.nbytes // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if num_bytes > len(self._chunk):
                self._chunk = huge_pages(max(num_bytes, _CHUNK_BYTES))
            piece, self._chunk = self._chunk[:num_bytes], self._chunk[num_bytes:]
        return piece[: source.nbytes].view(source.shape).copy_(source)


def huge_pages(num_bytes: int) -> torch.Tensor:
    """At least so many zeros, uint8, that start at a huge page. Untouched pages take no memory."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(num_bytes, dtype=torch.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, num_bytes + _HUGE_PAGE, flags=flags)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    return tensor[-tensor.data_ptr() % _HUGE_PAGE :]


WEIGHTS: Final = Arena()
