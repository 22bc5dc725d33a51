"""Matrix products whose rows do not depend on the other rows, the thread count or the batch.

A BLAS picks its blocking of the inner dimension by the number of rows and threads, and with it the
order of the sums: measured with torch 2.13 on AVX-512 and AMX machines, bf16 rows change bits at
48 to 256 rows once K >= 512, float32 rows at fewer than 16 rows, and with more than one thread.
Padding to a multiple of 16 is therefore not enough. What holds: one call shape gives one order.

So every product is *defined* as calls of exactly ``TILE`` rows on one thread, and larger tiles are
used where a probe at load shows that they give the same bits for this weight's shape, data type and
thread count. A wrong probe cannot pass unseen: tests compare sliced and shuffled batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch

_T = TypeVar("_T")

TILE = 16  # rows of the defining call; every row count is padded to a multiple of it
_CANDIDATES = (1024, 512, 256, 128, 64, 32, TILE)
_MAX_PROBE_ELEMENTS = 1 << 26  # weights above this are probed with fewer rows


class Plan(NamedTuple):
    """How to cut the rows of a product.

    ``tiles`` are the verified row counts, largest first; ``num_threads`` is what they hold for.
    """

    tiles: tuple[int, ...]
    num_threads: int


_plans: dict[tuple[object, ...], Plan] = {}


def padded_rows(num_rows: int) -> int:
    """The next multiple of ``TILE``."""
    return -(-num_rows // TILE) * TILE


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """``[T, ...]`` with zero rows appended up to a multiple of ``TILE``; no copy if it fits."""
    missing = padded_rows(x.shape[0]) - x.shape[0]
    if missing == 0:
        return x
    return torch.cat([x, x.new_zeros((missing, *x.shape[1:]))])


def plan_for(weight: torch.Tensor) -> Plan:
    """The plan of a ``[N, K]`` weight for the calling thread's number of threads.

    Probed once per shape, strides, data type and thread count with this weight and random rows.
    """
    key = (weight.shape, weight.stride(), weight.dtype, torch.get_num_threads())
    plan = _plans.get(key)
    if plan is None:
        plan = _plans[key] = _probe(weight)
    return plan


def linear(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T``, row-invariant.

    Args:
        x: ``[T, K]``, T a multiple of ``TILE``.
        weight: ``[N, K]`` of the same dtype.
        out: ``[T, N]`` to write to, or None for a new tensor.

    Raises:
        ValueError: T is not a multiple of ``TILE``.
    """
    num_rows = x.shape[0]
    if num_rows % TILE:
        raise ValueError(f"rows must be a multiple of {TILE}, got {num_rows}")
    plan = plan_for(weight)
    if out is None:
        out = x.new_empty((num_rows, weight.shape[0]))
    if plan.num_threads != torch.get_num_threads():
        return on_threads(plan.num_threads, lambda: _run(x, weight, out, plan))
    return _run(x, weight, out, plan)


def _run(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, plan: Plan) -> torch.Tensor:
    transposed = weight.t()
    for start, stop in segments(x.shape[0], plan.tiles):
        torch.mm(x[start:stop], transposed, out=out[start:stop])
    return out


@lru_cache(maxsize=4096)
def segments(num_rows: int, tiles: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """``num_rows`` cut greedily into tiles, largest first: (start, stop) of each."""
    cuts = []
    start = 0
    for tile in tiles:
        while num_rows - start >= tile:
            cuts.append((start, start + tile))
            start += tile
    return tuple(cuts)


def _probe(weight: torch.Tensor) -> Plan:
    num_threads = torch.get_num_threads()
    rows = 1024 if weight.numel() <= _MAX_PROBE_ELEMENTS else 128
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((rows, weight.shape[1]), generator=generator).to(weight.dtype)
    defining = on_threads(1, lambda: _tiled(x, weight, TILE))
    for threads in dict.fromkeys((num_threads, 1)):
        good = on_threads(threads, lambda: _verified(x, weight, defining))
        if TILE in good:
            return Plan(good, threads)
    raise AssertionError("the defining call does not repeat itself")


def _verified(x: torch.Tensor, weight: torch.Tensor, expected: torch.Tensor) -> tuple[int, ...]:
    candidates = (tile for tile in _CANDIDATES if tile <= x.shape[0])
    return tuple(tile for tile in candidates if torch.equal(_tiled(x, weight, tile), expected))


def _tiled(x: torch.Tensor, weight: torch.Tensor, tile: int) -> torch.Tensor:
    out = x.new_empty((x.shape[0], weight.shape[0]))
    return _run(x, weight, out, Plan((tile,), 0))


def on_threads(num_threads: int, call: Callable[[], _T]) -> _T:
    """Call with so many torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)
