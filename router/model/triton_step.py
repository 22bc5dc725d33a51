"""A step's positions, slots and block tables on the device, in the shapes the kernels take.

A token's bits depend on its own history alone, so it does not matter to it whether it attends by
itself or in a tile of its chunk. Tokens of short chunks attend by themselves, as decoded ones do:
guesses that are verified are then rows like others, and take the same recorded graphs. The cache
holds all of a step's latents before anyone attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from router.engine.speculation.policy import MAX_DRAFT_TOKENS
from router.exchange.dispatch import Ints
from router.model.batch import PrefillGroup, StepBatch
from router.model.rope import Rotation, query_temperature, softmax_scale
from router.model.triton_adapters import AdaptedTokens
from shards.kernels.gpu.grouped import Layout
from shards.kernels.gpu.launch import packed, split
from shards.kernels.kinds import CUDA
from shards.kernels.segments import MOST_PARTS, segments_of

if TYPE_CHECKING:
    from router.model.triton_layers import TritonLayers

MOST_ALONE: Final = 1 + MAX_DRAFT_TOKENS  # tokens of a chunk that attend each by itself


class DecodeTokens(NamedTuple):
    """B tokens that attend by themselves; int32."""

    rows: torch.Tensor  # [B] of the step
    positions: torch.Tensor  # [B]
    tables: torch.Tensor  # [B, blocks]
    num_segments: int  # of the longest


class PromptTokens(NamedTuple):
    """S longer chunks; int32."""

    tiles: torch.Tensor  # [n, 4], see ``attend_prompts``
    tables: torch.Tensor  # [S, blocks]


class StepTokens(NamedTuple):
    """T tokens on the device."""

    num_tokens: int
    cos: torch.Tensor  # [T, rope / 2] float32
    sin: torch.Tensor
    factors: torch.Tensor  # [T] float32: softmax scale times temperature
    slots: torch.Tensor  # [T] int32
    to_shared: Layout  # all tokens by the shared expert, whose id is 0
    decodes: DecodeTokens | None = None
    prompts: PromptTokens | None = None
    adapted: AdaptedTokens | None = None


def step_tokens(layers: TritonLayers, batch: StepBatch) -> StepTokens:
    """Copy what the kernels need; the adapters of all sequences are here."""
    count = batch.num_tokens
    positions = batch.positions[:count]
    rotation = Rotation(layers.frequencies, positions)
    factors = query_temperature(layers.config, positions) * softmax_scale(layers.config)
    cos, sin, factors = _on(layers.device, [rotation.cos, rotation.sin, factors])
    short, longer = by_length(batch)
    alone = tokens_alone(batch, short)
    ints = [torch.from_numpy(batch.slots), torch.arange(count), shared_tiles(layers, count)]
    if alone is not None:
        ints += [torch.from_numpy(part) for part in alone]
    if longer:
        prompts = prompt_tiles(longer, layers.shape.tokens_per_tile)
        tables = padded([chunk.table.flatten().numpy() for chunk in longer])
        ints += [torch.from_numpy(prompts), torch.from_numpy(tables)]
    slots, all_rows, tiles, *rest = _on(layers.device, [part.int() for part in ints])
    tokens = StepTokens(
        *(count, cos, sin, factors, slots, Layout(all_rows, all_rows, tiles)),
        adapted=layers.changes.tokens_of(batch.adapters),
    )
    if alone is not None:
        num_segments = segments_of(int(alone.positions.max()) + 1)
        tokens = tokens._replace(decodes=DecodeTokens(rest[0], rest[1], rest[2], num_segments))
    if longer:
        tokens = tokens._replace(prompts=PromptTokens(rest[-2], rest[-1]))
    return tokens


class Alone(NamedTuple):
    """B tokens that attend by themselves; int64, on the host."""

    rows: Ints  # [B] of the step
    positions: Ints  # [B]
    tables: Ints  # [B, blocks]


def by_length(batch: StepBatch) -> tuple[list[PrefillGroup], list[PrefillGroup]]:
    """Chunks of several tokens: those that attend each by itself, and the others."""
    short = [c for c in batch.prefills if c.num_tokens <= MOST_ALONE]
    num_single = 0 if batch.decodes is None else len(batch.decodes.rows)
    longest = int(batch.positions.max()) + 1 if short else 0
    if (num_single + sum(c.num_tokens for c in short)) * segments_of(longest) > MOST_PARTS:
        return [], list(batch.prefills)
    return short, [c for c in batch.prefills if c.num_tokens > MOST_ALONE]


def tokens_alone(batch: StepBatch, short: Sequence[PrefillGroup]) -> Alone | None:
    """Chunks of one token, and all tokens of these short ones; None if there are none."""
    rows, positions, tables = [], [], []
    if batch.decodes is not None:
        single, where = batch.decodes.rows.numpy(), batch.decodes.positions.numpy()
        their_tables = batch.decodes.tables.flatten(1).numpy()
        if not short:
            return Alone(single, where, their_tables)
        rows.append(single)
        positions.append(where)
        tables += list(their_tables)
    for chunk in short:
        within = np.arange(chunk.num_tokens)
        rows.append(chunk.first_row + within)
        positions.append(chunk.start + within)
        tables += [chunk.table.flatten().numpy()] * chunk.num_tokens
    if not rows:
        return None
    return Alone(np.concatenate(rows), np.concatenate(positions), padded(tables))


def shared_tiles(layers: TritonLayers, num_tokens: int) -> torch.Tensor:
    """``[n, 3]`` int32 on the host: tiles of so many rows of the only expert."""
    rows = layers.layers[0].shared.tile_for(num_tokens).rows
    first = torch.arange(0, num_tokens, rows, dtype=torch.int32)
    return torch.stack([first * 0, first, (first + rows).clamp_max(num_tokens)], dim=1)


def prompt_tiles(chunks: Sequence[PrefillGroup], tokens_per_tile: int) -> npt.NDArray[np.int64]:
    """``[n, 4]``: first row, number of tokens, position of the first, number of the chunk.

    Longest last tokens first: programs that walk most keys start before the others.
    """
    tiles = [
        (c.first_row + at, min(tokens_per_tile, c.num_tokens - at), c.start + at, number)
        for number, c in enumerate(chunks)
        for at in range(0, c.num_tokens, tokens_per_tile)
    ]
    return np.array(sorted(tiles, key=lambda tile: -tile[2]))


def padded(tables: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Block tables as one array, filled up with block 0."""
    whole = np.zeros((len(tables), max(map(len, tables))), dtype=np.int64)
    for row, table in zip(whole, tables, strict=True):
        row[: len(table)] = table
    return whole


def _on(device: torch.device, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of one dtype on the device, by one copy."""
    whole = torch.from_numpy(packed([part.numpy() for part in parts], parts[0].numpy().dtype.type))
    if device.type == CUDA:
        whole = whole.pin_memory().to(device, non_blocking=True)
    moved = split(whole, [part.numel() for part in parts])
    return [flat.view(part.shape) for flat, part in zip(moved, parts, strict=True)]
