"""Pixtral vision tower, patch merger and projector: images in, features of their tokens out.

Images go through the tower in batches, and a batch in slices of rows, between which the engine
may decode: the largest image has 12,100 patches and takes many steps' time. Features depend on
their image only, to the bit: not on the batch, the slices, or the number of threads.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from router.model.vision_kernels import vision_kernels
from router.model.vision_rows import VisionRows
from shards.checkpoint.weights import Checkpoint
from shards.kernels.kinds import CPU
from shards.kernels.row_invariant import on_threads
from shards.kernels.threads import ONE_THREAD, KernelThreads

Pixels: TypeAlias = npt.NDArray[np.float32]  # [3, height, width], sides multiples of a token's


class QueryBlock(NamedTuple):
    """Patches ``start`` to ``stop`` of a batch, all of one image."""

    image: int
    start: int
    stop: int


class Slice(NamedTuple):
    """Blocks that follow one another: what is worked on at one time."""

    blocks: tuple[QueryBlock, ...]

    @property
    def rows(self) -> slice:
        """Their patches."""
        return slice(self.blocks[0].start, self.blocks[-1].stop)

    @property
    def num_rows(self) -> int:
        """How many patches."""
        return self.blocks[-1].stop - self.blocks[0].start


class VisionTower:
    """Encodes images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        threads: KernelThreads = ONE_THREAD,
        device: str = CPU,
    ) -> None:
        """Load tower and projector to a device; on the CPU ``threads`` share out the attention.

        Raises:
            ConfigError: The device is not here.
            ValueError: The checkpoint has no vision tower.
        """
        self.rows = VisionRows(checkpoint, dtype, vision_kernels(dtype, device))
        self.threads = threads if device == CPU else ONE_THREAD

    def token_grid(self, pixels: Pixels) -> tuple[int, int]:
        """Rows and columns of the tokens of an image; 0 x 0 if its shape is that of none."""
        cell = self.rows.config.patch_size * self.rows.config.spatial_merge_size
        if pixels.ndim != 3 or len(pixels) != 3 or any(side % cell for side in pixels.shape[1:]):
            return 0, 0
        return pixels.shape[1] // cell, pixels.shape[2] // cell

    def num_patches(self, pixels: Pixels) -> int:
        """Rows that an image has in the tower."""
        height, width = self.rows.grid_of(*pixels.shape[1:])
        return height * width

    def feature_bytes(self, pixels: Pixels) -> int:
        """What the features of an image take."""
        num_tokens = self.num_patches(pixels) // self.rows.config.spatial_merge_size**2
        return num_tokens * self.rows.feature_size * self.rows.dtype.itemsize

    def encode(self, pixels: Pixels) -> torch.Tensor:
        """``[3, height, width]`` -> ``[grid_height * grid_width, feature_size]``, row-major.

        On the tower's device.
        """
        batch = EncodeBatch(self, [pixels])
        while batch.advance():
            pass
        (features,) = batch.features
        return features


class EncodeBatch:
    """Images on their way through the tower together, a slice of rows at a time."""

    @torch.inference_mode()
    def __init__(self, tower: VisionTower, images: Sequence[Pixels]) -> None:
        """Nothing is computed yet but the layout."""
        rows = self._rows = tower.rows
        self._threads = tower.threads
        self.features: list[torch.Tensor] = []  # of every image, once it is done
        self._grids = [rows.grid_of(*image.shape[1:]) for image in images]
        sizes = [height * width for height, width in self._grids]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._sizes = sizes
        device, block_rows = rows.kernels.device, rows.kernels.block_rows
        self._max_rows = block_rows * tower.threads.num_threads  # a block for each thread
        self._slices = cut(sizes, self._max_rows, block_rows)
        patches = [rows.patches(torch.from_numpy(np.ascontiguousarray(i))) for i in images]
        self._patches = torch.cat(patches).to(device)
        angles = [rows.angles(*grid) for grid in self._grids]
        self._cos = torch.cat([cos for cos, _ in angles]).to(device)
        self._sin = torch.cat([sin for _, sin in angles]).to(device)
        self._keys = [rows.image_keys(size) for size in sizes]
        self._x = torch.empty((sum(sizes), rows.tower_size), dtype=rows.dtype, device=device)
        self._work = self._visits()

    @torch.inference_mode()
    def advance(self) -> float:
        """Do the next slice; how many patches it was worth, or 0 when all is done.

        A patch is worth its way through the tower without attention.
        """
        return next(self._work, 0) / self._rows.patch_products

    def abandon(self) -> None:
        """Give up: free what was computed."""
        self._work.close()

    def _visits(self) -> Generator[int, None, None]:
        for part in self._slices:
            self._x[part.rows] = self._rows.embed(self._patches[part.rows])
            yield part.num_rows * self._rows.embed_products
        for layer in range(self._rows.config.num_layers):
            for part in self._slices:  # all keys first: every query looks at the whole image
                self._store_keys(layer, part)
                yield part.num_rows * self._rows.keys_products
            for part in self._slices:
                self._apply_layer(layer, part)
                yield part.num_rows * self._rows.layer_products + self._attention(part)
        yield from self._project()

    def _attention(self, part: Slice) -> int:
        return sum(
            (stop - start) * self._rows.attention_products(self._sizes[image])
            for image, start, stop in part.blocks
        )

    def _store_keys(self, layer: int, part: Slice) -> None:
        rows = part.rows
        k, v = self._rows.keys_values(layer, self._x[rows], self._cos[rows], self._sin[rows])
        for image, start, stop in part.blocks:
            here = slice(start - rows.start, stop - rows.start)
            there = slice(start - self._starts[image], stop - self._starts[image])
            self._keys[image].put(there, k[here], v[here])

    def _apply_layer(self, layer: int, part: Slice) -> None:
        rows = part.rows
        x = self._x[rows]
        q = self._rows.queries(layer, x, self._cos[rows], self._sin[rows])
        mixed = torch.empty_like(q)

        @torch.inference_mode()
        def run(numbers: Sequence[int]) -> None:
            for number in numbers:
                image, start, stop = part.blocks[number]
                here = slice(start - rows.start, stop - rows.start)
                mixed[here] = self._keys[image].attend(q[here])

        on_threads(1, lambda: self._threads.run(run, len(part.blocks)))
        self._x[rows] = self._rows.finish_layer(layer, x, mixed)

    def _project(self) -> Generator[int, None, None]:
        for image, (height, width) in enumerate(self._grids):
            x = self._x[self._starts[image] : self._starts[image + 1]]
            merged = self._rows.merge(x, height, width)
            done = []
            for start in range(0, len(merged), self._max_rows):
                done.append(self._rows.project(merged[start : start + self._max_rows]))
                yield len(done[-1]) * self._rows.project_products
            self.features.append(torch.cat(done))


def cut(sizes: Sequence[int], max_rows: int, block_rows: int) -> tuple[Slice, ...]:
    """Images of so many patches each, cut into blocks, and these put together into slices.

    Blocks have ``block_rows`` patches, counted from the start of their image; slices have
    ``max_rows`` at most, or one block.
    """
    slices: list[Slice] = []
    blocks: list[QueryBlock] = []
    first = 0
    for image, size in enumerate(sizes):
        for start in range(first, first + size, block_rows):
            block = QueryBlock(image, start, min(start + block_rows, first + size))
            if blocks and block.stop - blocks[0].start > max_rows:
                slices.append(Slice(tuple(blocks)))
                blocks = []
            blocks.append(block)
        first += size
    return (*slices, Slice(tuple(blocks))) if blocks else tuple(slices)
