"""One step's tokens as arrays, in the shapes the attention needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from router.exchange.dispatch import Ints
from router.model.kv_cache import PagedLatentCache
from shards.adapters.tokens import TokenAdapters
from shards.kernels.row_invariant import padded_rows

KEY_BLOCK = 128  # positions per attention block: fixed, so that sums join in one order for all


class Chunk(NamedTuple):
    """New tokens of one sequence in this step."""

    token_ids: Sequence[int]  # the new ones
    start: int  # absolute position of the first
    block_ids: list[int]  # the sequence's block table
    num_logits: int = 1  # last tokens whose logits are wanted: 0 none, 1 to sample
    adapter: int = 0  # key of the sequence's adapter; 0: none


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """All one-token chunks of a step, attended together.

    ``rows`` ``[B]`` int64 are their rows in the step; ``positions`` ``[B]``; ``tables``
    ``[B, key blocks, KEY_BLOCK / block_size]`` int64 block ids, padded with block 0.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    tables: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefillGroup:
    """One chunk of several tokens: rows ``[first_row, first_row + num_tokens)``."""

    first_row: int
    num_tokens: int
    start: int
    table: torch.Tensor  # [key blocks, KEY_BLOCK / block_size]


@dataclass(frozen=True)
class StepBatch:
    """T tokens of a step, padded to ``num_rows``."""

    num_tokens: int
    num_rows: int
    token_ids: torch.Tensor  # [num_rows] int64, padded with 0
    positions: Ints  # [num_rows]
    slots: Ints  # [T]
    logit_rows: torch.Tensor  # [L] rows of the wanted logits, chunk after chunk
    chunks: Sequence[Chunk]
    first_row: Ints  # [chunks + 1] row of every chunk's first token, and T
    block_size: int

    @cached_property
    def adapters(self) -> TokenAdapters | None:
        """``[T]`` key of every token's adapter, 0 for none; None where nobody has one."""
        keys = [chunk.adapter for chunk in self.chunks]
        if not any(keys):
            return None
        return np.repeat(np.array(keys, dtype=np.uint64), np.diff(self.first_row))

    @cached_property
    def decodes(self) -> DecodeGroup | None:
        """The chunks of one token."""
        return _decode_group(self.chunks, self.first_row, self.block_size)

    @cached_property
    def prefills(self) -> tuple[PrefillGroup, ...]:
        """The chunks of several tokens."""
        return tuple(
            PrefillGroup(int(first), len(c.token_ids), c.start, _table(c, self.block_size))
            for c, first in zip(self.chunks, self.first_row, strict=False)
            if len(c.token_ids) > 1
        )


def build_batch(chunks: Sequence[Chunk], cache: PagedLatentCache) -> StepBatch:
    """Lay the chunks of a step out one after the other."""
    if all(len(c.token_ids) == 1 == c.num_logits for c in chunks):
        return _decode_batch(chunks, cache.block_size)
    return _any_batch(chunks, cache)


def _any_batch(chunks: Sequence[Chunk], cache: PagedLatentCache) -> StepBatch:
    lengths = np.array([len(c.token_ids) for c in chunks])
    first_row = np.concatenate([[0], np.cumsum(lengths)])
    num_tokens = int(first_row[-1])
    num_rows = padded_rows(num_tokens)
    token_ids = np.zeros(num_rows, dtype=np.int64)
    positions = np.zeros(num_rows, dtype=np.int64)
    slots = np.zeros(num_tokens, dtype=np.int64)
    wanted = []
    for chunk, first, length in zip(chunks, first_row, lengths, strict=False):
        rows = slice(first, first + length)
        token_ids[rows] = chunk.token_ids
        positions[rows] = np.arange(chunk.start, chunk.start + length)
        slots[rows] = cache.slots(chunk.block_ids, chunk.start, length)
        wanted.append(np.arange(first + length - chunk.num_logits, first + length))
    return StepBatch(
        num_tokens=num_tokens,
        num_rows=num_rows,
        token_ids=torch.from_numpy(token_ids),
        positions=positions,
        slots=slots,
        logit_rows=torch.from_numpy(np.concatenate(wanted)),
        chunks=chunks,
        first_row=first_row,
        block_size=cache.block_size,
    )


def _decode_batch(chunks: Sequence[Chunk], block_size: int) -> StepBatch:
    """``_any_batch`` where every chunk has one token and wants its logits: most steps."""
    num_tokens = len(chunks)
    num_rows = padded_rows(num_tokens)
    token_ids, positions = np.zeros((2, num_rows), dtype=np.int64)
    token_ids[:num_tokens] = [c.token_ids[0] for c in chunks]
    starts = [c.start for c in chunks]
    positions[:num_tokens] = starts
    blocks = [c.block_ids[c.start // block_size] for c in chunks]
    first_row = np.arange(num_tokens + 1)
    return StepBatch(
        num_tokens=num_tokens,
        num_rows=num_rows,
        token_ids=torch.from_numpy(token_ids),
        positions=positions,
        slots=np.array(blocks) * block_size + positions[:num_tokens] % block_size,
        logit_rows=torch.from_numpy(first_row[:-1]),
        chunks=chunks,
        first_row=first_row,
        block_size=block_size,
    )


def _table(chunk: Chunk, block_size: int) -> torch.Tensor:
    per_key_block = KEY_BLOCK // block_size
    num_keys = chunk.start + len(chunk.token_ids)
    num_key_blocks = -(-num_keys // KEY_BLOCK)
    table = np.zeros(num_key_blocks * per_key_block, dtype=np.int64)
    used = chunk.block_ids[: -(-num_keys // block_size)]
    table[: len(used)] = used
    return torch.from_numpy(table.reshape(num_key_blocks, per_key_block))


def _decode_group(chunks: Sequence[Chunk], first_row: Ints, block_size: int) -> DecodeGroup | None:
    single = [i for i, c in enumerate(chunks) if len(c.token_ids) == 1]
    if not single:
        return None
    single.sort(key=lambda i: -chunks[i].start)  # longest first: later key blocks take a prefix
    tables = [_table(chunks[i], block_size) for i in single]
    padded = torch.zeros((len(single), *tables[0].shape), dtype=torch.int64)
    for row, table in enumerate(tables):
        padded[row, : len(table)] = table
    return DecodeGroup(
        rows=torch.tensor([int(first_row[i]) for i in single]),
        positions=torch.tensor([chunks[i].start for i in single]),
        tables=padded,
    )
