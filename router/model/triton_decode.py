"""Decode steps as recorded graphs: a step of several hundred launches is one call.

A graph has fixed shapes: so many tokens, so many segments. A step takes the smallest that holds it,
and padding tokens have no slot, no keys and no experts. Recording and replay need a GPU; without
one the same buffers are computed launch by launch, which is what tests compare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import torch

from router.model.kv_cache import PagedLatentCache
from router.model.triton_step import DecodeTokens, StepTokens
from shards.kernels.gpu.attention import SEGMENT
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.graphs import recorded
from shards.kernels.gpu.grouped import Layout

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # tokens of a graph
# Layers for tokens in buffers: residuals in, norms of the last ones out.
Compute = Callable[[torch.Tensor, StepTokens], torch.Tensor]


def graph_shape(num_tokens: int, num_segments: int) -> tuple[int, int] | None:
    """Tokens and segments of the graph for a step; None: too many tokens for any."""
    if not 0 < num_tokens <= SIZES[-1]:
        return None
    return SIZES[bisect_left(SIZES, num_tokens)], 1 << (num_segments - 1).bit_length()


class _Graph:
    """Buffers of one shape, and what computes from them."""

    def __init__(
        self,
        compute: Compute,
        x: torch.Tensor,
        tokens: StepTokens,
        shape: tuple[int, int],
        block_size: int,
        to_shared: Layout,
    ) -> None:
        """Like ``x`` and ``tokens``, but for their shape; ``to_shared`` is of that."""
        size, num_segments = shape
        blocks = num_segments * SEGMENT // block_size
        self._x = x.new_zeros((size, x.shape[1]))
        ints = tokens.slots.new_zeros
        self._tokens = StepTokens(
            num_tokens=size,
            cos=tokens.cos.new_zeros((size, tokens.cos.shape[1])),
            sin=tokens.sin.new_zeros((size, tokens.sin.shape[1])),
            factors=tokens.factors.new_zeros(size),
            slots=ints(size),
            to_shared=to_shared,
            decodes=DecodeTokens(ints(size), ints(size), ints((size, blocks)), num_segments),
        )
        self._all_rows = torch.arange(size, dtype=torch.int32, device=x.device)
        self._compute = compute
        self._recorded: tuple[torch.cuda.CUDAGraph, torch.Tensor] | None = None

    def run(self, x: torch.Tensor, tokens: StepTokens) -> torch.Tensor:
        """``[T, H]`` norms of a step's tokens."""
        self._fill(x, tokens)
        if x.device.type != "cuda":
            return self._compute(self._x, self._tokens)[: len(x)]
        if self._recorded is None:  # what is written is written again by the replay
            self._recorded = recorded(lambda: self._compute(self._x, self._tokens), x.device)
        graph, out = self._recorded
        graph.replay()
        return out[: len(x)].clone()  # the next replay writes there again

    def _fill(self, x: torch.Tensor, tokens: StepTokens) -> None:
        mine, count = self._tokens, len(x)
        self._x[:count] = x
        for name in ("cos", "sin", "factors"):
            getattr(mine, name)[:count] = getattr(tokens, name)
        mine.slots[:count], mine.slots[count:] = tokens.slots, -1
        to, given = mine.decodes, tokens.decodes
        assert to is not None
        assert given is not None
        to.rows.copy_(self._all_rows)
        to.rows[:count] = given.rows  # all of the step's, in another order
        to.positions[:count], to.positions[count:] = given.positions, -1
        to.tables[:count, : given.tables.shape[1]] = given.tables


class DecodeGraphs:
    """Graphs of one cache and one set of experts; others make them anew."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._for: tuple[PagedLatentCache, tuple[TritonExperts, ...]] | None = None

    def __len__(self) -> int:
        """Shapes that were needed."""
        return len(self._graphs)

    def run(
        self,
        compute: Compute,
        x: torch.Tensor,
        tokens: StepTokens,
        cache: PagedLatentCache,
        experts: Sequence[TritonExperts],
        to_shared: Callable[[int], Layout],
    ) -> torch.Tensor | None:
        """Norms ``[T, H]`` after all layers of a step that only decodes; None: no graph fits.

        None too where somebody has an adapter: such steps are launched kernel by kernel.

        ``compute`` is over this cache and these experts, and the same for equal ones. ``to_shared``
        lays so many tokens out for the shared expert.
        """
        if tokens.decodes is None or tokens.prompts is not None or tokens.adapted is not None:
            return None
        shape = graph_shape(tokens.num_tokens, tokens.decodes.num_segments)
        if shape is None:
            return None
        wanted = cache, tuple(experts)
        if self._for is None or self._for[0] is not cache or not _same(self._for[1], experts):
            self._graphs.clear()  # they hold what they were recorded with
            self._for = wanted
        if shape not in self._graphs:
            self._graphs[shape] = _Graph(
                *(compute, x, tokens, shape, cache.block_size), to_shared(shape[0])
            )
        return self._graphs[shape].run(x, tokens)


def _same(a: Sequence[TritonExperts], b: Sequence[TritonExperts]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


assert SEGMENT % 128 == 0  # whole key blocks, so that tables have as many blocks as they say
