"""Decode steps as recorded graphs: a step of several hundred launches is one call.

A graph has fixed shapes: so many tokens, so many segments. A step takes the smallest that holds it,
and padding tokens have no slot, no keys and no experts. Recording and replay need a GPU; without
one the same buffers are computed launch by launch, which is what tests compare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from router.model.device_sizes import GRAPH_SIZES, MOST_GRAPHS
from router.model.kv_cache import PagedLatentCache
from router.model.triton_adapters import AdaptedTokens
from router.model.triton_step import DecodeTokens, StepTokens
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.graphs import Pool, recorded, shared_pool
from shards.kernels.gpu.grouped import Layout
from shards.kernels.segments import MOST_PARTS, keys_of, segments_room

# Layers for tokens in buffers: residuals in, norms of the last ones out.
Compute = Callable[[torch.Tensor, StepTokens], torch.Tensor]


class Shape(NamedTuple):
    """Tokens and segments that a graph has room for."""

    num_tokens: int
    num_segments: int


def graph_shape(num_tokens: int, num_segments: int) -> Shape | None:
    """Of the graph for a step; None: no graph has so much room."""
    if not 0 < num_tokens <= GRAPH_SIZES[-1]:
        return None
    shape = Shape(GRAPH_SIZES[bisect_left(GRAPH_SIZES, num_tokens)], segments_room(num_segments))
    return shape if shape.num_tokens * shape.num_segments <= MOST_PARTS else None


class DecodeWork(NamedTuple):
    """What graphs record. ``compute`` is over this cache and these experts."""

    compute: Compute
    cache: PagedLatentCache
    experts: Sequence[TritonExperts]
    to_shared: Callable[[int], Layout]  # lays so many tokens out for the shared expert
    rooms: Callable[[], tuple[int, ...]]  # of all that adapters change, see ``ExpertChanges``

    def is_like(self, other: DecodeWork) -> bool:
        """Whether what was recorded of the other is right for this one."""
        if self.cache is not other.cache or len(self.experts) != len(other.experts):
            return False
        return all(a is b for a, b in zip(self.experts, other.experts, strict=True))


class _Graph:
    """Buffers of one shape, and what computes from them."""

    def __init__(self, work: DecodeWork, x: torch.Tensor, tokens: StepTokens, shape: Shape) -> None:
        """Like ``x`` and ``tokens``, but for their shape."""
        size, num_segments = shape
        blocks = keys_of(num_segments) // work.cache.block_size
        self._x = x.new_zeros((size, x.shape[1]))
        ints = tokens.slots.new_zeros
        adapted = None if tokens.adapted is None else AdaptedTokens.empty(size, x.device)
        self._tokens = StepTokens(
            num_tokens=size,
            cos=tokens.cos.new_zeros((size, tokens.cos.shape[1])),
            sin=tokens.sin.new_zeros((size, tokens.sin.shape[1])),
            factors=tokens.factors.new_zeros(size),
            slots=ints(size),
            to_shared=work.to_shared(size),
            decodes=DecodeTokens(ints(size), ints(size), ints((size, blocks)), num_segments),
            adapted=adapted,
        )
        self._all_rows = torch.arange(size, dtype=torch.int32, device=x.device)
        self._compute = work.compute
        self._recorded: tuple[torch.cuda.CUDAGraph, torch.Tensor] | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a step has had it recorded."""
        return self._recorded is not None

    def run(self, x: torch.Tensor, tokens: StepTokens, pool: Pool | None) -> torch.Tensor:
        """``[T, H]`` norms of a step's tokens; ``pool`` unset: launched one by one."""
        self._fill(x, tokens)
        if pool is None:
            return self._compute(self._x, self._tokens)[: len(x)]
        if self._recorded is None:  # what is written is written again by the replay
            self._recorded = recorded(lambda: self._compute(self._x, self._tokens), x.device, pool)
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
        if mine.adapted is not None:
            assert tokens.adapted is not None
            mine.adapted.fill(tokens.adapted)


class DecodeGraphs:
    """Graphs of one cache and one set of experts; others make them anew.

    They share the memory of what they compute on the way: one step runs at a time.
    """

    def __init__(self, *, records: bool) -> None:
        """``records``: else steps are computed in the buffers of graphs, launch by launch."""
        self._records = records
        self._pool: Pool | None = None
        self._graphs: dict[tuple[Shape, tuple[int, ...] | None], _Graph] = {}  # newest use last
        self._work: DecodeWork | None = None

    def __len__(self) -> int:
        """Graphs that are held."""
        return len(self._graphs)

    def clear(self) -> None:
        """Give up what was recorded, and with it what that was recorded with."""
        self._graphs.clear()
        self._work = None

    def run(self, work: DecodeWork, x: torch.Tensor, tokens: StepTokens) -> torch.Tensor | None:
        """Norms ``[T, H]`` after all layers of a step whose tokens all attend by themselves.

        None: others do, or no graph has room.
        """
        if tokens.decodes is None or tokens.prompts is not None:
            return None
        shape = graph_shape(tokens.num_tokens, tokens.decodes.num_segments)
        if shape is None:
            return None
        if self._work is None or not work.is_like(self._work):
            self.clear()
            self._work = work
        rooms = None if tokens.adapted is None else work.rooms()
        graph = self._graphs.pop((shape, rooms), None)
        if graph is None:
            graph = _Graph(work, x, tokens, shape)
            self._make_room(rooms)
        self._graphs[shape, rooms] = graph
        return graph.run(x, tokens, self._shared_pool() if self._records else None)

    def _make_room(self, rooms: tuple[int, ...] | None) -> None:
        """For one more; where adapters need other rooms, graphs of the old ones are out of date."""
        if rooms is not None:
            self._graphs = {key: g for key, g in self._graphs.items() if key[1] in (None, rooms)}
        while len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]

    def _shared_pool(self) -> Pool:
        """That of the graphs, for this step's too. Torch gives a pool up with its last graph."""
        if self._pool is None or not any(g.is_recorded for g in self._graphs.values()):
            self._pool = shared_pool()
        return self._pool
