"""What every launch needs: how numbers are multiplied here, and tiles that change no bit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import triton

# Rows of random numbers that must come out the same by every tile: several of the largest.
PROBE_ROWS: Final = 272
# For every launch: a product and a sum become one rounding only where the code says ``fma``, so
# that two copies of a formula have the same bits whatever surrounds them.
NO_FUSION: Final = {"enable_fp_fusion": False}


class Tile(NamedTuple):
    """Shape of a program's part of a product ``w @ x.T``."""

    outputs: int
    rows: int
    inputs: int  # at once; the sum walks them in this order whatever the rest
    num_warps: int
    num_stages: int


def is_interpreted() -> bool:
    """Whether Triton's interpreter computes, on the CPU (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def upcasts(dtype: torch.dtype) -> bool:
    """Whether products take float32: for such rows, and in the interpreter, which has no bf16."""
    return dtype == torch.float32 or is_interpreted()


def block(size: int, at_least: int = 16) -> int:
    """The power of two that holds ``size``."""
    return max(at_least, 1 << (size - 1).bit_length())


def split(whole: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Parts of a flat tensor of 4-byte numbers, each at a multiple of 16 bytes.

    Triton compiles a kernel anew where a pointer is aligned otherwise. ``room`` is how long the
    whole must be.
    """
    starts = [room(sizes[:i]) for i in range(len(sizes))]
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def room(sizes: Sequence[int]) -> int:
    """Numbers that ``split`` takes for parts of these sizes."""
    return sum(-(-size // 4) * 4 for size in sizes)


def packed(parts: Sequence[npt.NDArray[np.generic]], dtype: type) -> npt.NDArray[np.generic]:
    """Flat parts of 4-byte numbers as ``split`` finds them."""
    whole: npt.NDArray[np.generic] = np.zeros(room([part.size for part in parts]), dtype=dtype)
    start = 0
    for part in parts:
        whole[start : start + part.size] = part.reshape(-1)
        start += room([part.size])
    return whole


_verified: dict[Hashable, tuple[Tile, ...]] = {}


def verified(
    key: Hashable, tiles: Sequence[Tile], compute: Callable[[Tile], torch.Tensor]
) -> tuple[Tile, ...]:
    """Of the tiles those that give the bits of the first one, which defines them.

    Row invariance rests on it: which tile is used depends on the number of rows. Asked once a
    process and ``key``: by the matrix unit's order of sums all should, but no manual promises it.
    """
    if is_interpreted():  # its products are a BLAS's, with an order for every shape
        return (tiles[0],)
    if key not in _verified:
        expected = compute(tiles[0])
        same = (t for t in tiles[1:] if torch.equal(compute(t), expected))
        _verified[key] = (tiles[0], *same)
    return _verified[key]


def for_rows(tiles: Sequence[Tile], num_rows: int) -> Tile:
    """The smallest tile with room for so many rows, else the largest."""
    return next((t for t in tiles if t.rows >= num_rows), tiles[-1])
