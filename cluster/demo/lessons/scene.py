"""A picture of coloured shapes on a 3x3 grid: drawn the same to the bit on every machine.

Cells are numbered in reading order: cell ``c`` is in row ``c // 3`` and column ``c % 3``. Row or
column ``i`` covers exactly the pixels ``[round(i * side / 3), round((i + 1) * side / 3))``; no cell
shares a pixel with another, and a shape never leaves its cell.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from cluster.demo.lessons.document import Picture

Shape = Literal["circle", "square", "triangle", "cross", "diamond"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "orange", "black", "brown"]
Size = Literal["small", "medium", "large"]
Rgb = tuple[int, int, int]

SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "cross", "diamond")
COLOURS: tuple[Colour, ...] = (
    "red",
    "green",
    "blue",
    "yellow",
    "purple",
    "orange",
    "black",
    "brown",
)
SIZES: tuple[Size, ...] = ("small", "medium", "large")
SIDES = tuple(range(56, 224 + 1, 28))
MAX_ITEMS = 6
GRID = 3
CELLS = tuple(range(GRID * GRID))

RGB: Mapping[Colour, Rgb] = {
    "red": (220, 20, 30),
    "green": (0, 150, 60),
    "blue": (30, 60, 230),
    "yellow": (255, 230, 0),
    "purple": (150, 30, 180),
    "orange": (255, 125, 0),
    "black": (0, 0, 0),
    "brown": (120, 70, 30),
}
BACKGROUND: Rgb = (255, 255, 255)
LINE: Rgb = (210, 210, 210)
SHARE_OF_CELL: Mapping[Size, float] = {"small": 0.45, "medium": 0.65, "large": 0.9}
SUPERSAMPLING = 3
ARM = 1 / 3  # half the width of a cross's arm, in half-widths of the cross


class Item(NamedTuple):
    """One shape in one cell."""

    cell: int
    shape: Shape
    colour: Colour
    size: Size


@dataclass(frozen=True, slots=True)
class Scene:
    """A square picture, ``side`` pixels wide; its objects in reading order, one per cell at most.

    Raises:
        ValueError: A side, a number of objects or an order of cells that no picture has.
    """

    side: int
    objects: tuple[Item, ...]

    def __post_init__(self) -> None:
        cells = [item.cell for item in self.objects]
        if self.side not in SIDES:
            raise ValueError(f"a side of {self.side} pixels is not one of {SIDES}")
        if not 1 <= len(cells) <= MAX_ITEMS or not set(cells) <= set(CELLS):
            raise ValueError(f"1 to {MAX_ITEMS} objects in cells 0 to {CELLS[-1]}, not {cells}")
        if any(left >= right for left, right in pairwise(cells)):
            raise ValueError(f"the cells must rise: {cells}")

    def at(self, cell: int) -> Item | None:
        """The object in a cell, if there is one."""
        return next((item for item in self.objects if item.cell == cell), None)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """A new array ``[side, side, 3]``, RGB."""
        canvas = _empty_grid(self.side).copy()
        bounds = cell_bounds(self.side)
        for item in self.objects:
            row, column = divmod(item.cell, GRID)
            cell = canvas[bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]]
            cover = _coverage(item.shape, item.size, self.side, item.cell)
            colour = np.array(RGB[item.colour], dtype=np.float32)
            cell[...] = np.rint(cell + cover * (colour - cell))
        return canvas


def png(picture: Picture) -> bytes:
    """A picture as a PNG file, without loss."""
    file = io.BytesIO()
    Image.fromarray(picture.pixels()).save(file, "PNG")
    return file.getvalue()


@cache
def cell_bounds(side: int) -> tuple[int, ...]:
    """Where the rows (and columns) begin, in pixels, with ``side`` as the last of four."""
    return tuple(round(i * side / GRID) for i in range(GRID + 1))


def cell_of_pixel(side: int, coordinate: int) -> int:
    """The column 0 to 2 of a pixel's x, or the row of its y.

    Raises:
        ValueError: The coordinate is outside the picture.
    """
    if not 0 <= coordinate < side:
        raise ValueError(f"pixel {coordinate} is outside a picture of {side} pixels")
    return bisect_right(cell_bounds(side), coordinate) - 1


@cache
def _empty_grid(side: int) -> npt.NDArray[np.uint8]:
    """White, with one-pixel lines on the first pixel of each row and column and on the border."""
    canvas = np.full((side, side, 3), BACKGROUND, dtype=np.uint8)
    for line in (*cell_bounds(side)[:-1], side - 1):
        canvas[line] = LINE
        canvas[:, line] = LINE
    canvas.setflags(write=False)
    return canvas


@cache
def _coverage(shape: Shape, size: Size, side: int, cell: int) -> npt.NDArray[np.float32]:
    """How much of each pixel of a cell the shape covers: ``[height, width, 1]``, 0 to 1."""
    bounds = cell_bounds(side)
    row, column = divmod(cell, GRID)
    height, width = bounds[row + 1] - bounds[row], bounds[column + 1] - bounds[column]
    half = SHARE_OF_CELL[size] * side / GRID / 2
    inside = _inside(shape, _samples(width, half)[None, :], _samples(height, half)[:, None])
    blocks = inside.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING)
    cover: npt.NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)[..., None]
    cover.setflags(write=False)
    return cover


def _samples(pixels: int, half: float) -> npt.NDArray[np.float64]:
    """Sampling points of a row of pixels, measured from its middle in units of ``half`` pixels."""
    points = (np.arange(pixels * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    return (points - pixels / 2) / half


def _inside(
    shape: Shape, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which points the shape holds; it fills the square from -1 to 1, with y pointing down."""
    across, down = np.abs(x), np.abs(y)
    box = np.maximum(across, down) <= 1
    match shape:
        case "circle":
            return np.asarray(x * x + y * y <= 1)
        case "square":
            return np.asarray(box)
        case "triangle":
            return np.asarray(box & (across <= (y + 1) / 2))
        case "cross":
            return np.asarray(box & (np.minimum(across, down) <= ARM))
        case "diamond":
            return np.asarray(across + down <= 1)
