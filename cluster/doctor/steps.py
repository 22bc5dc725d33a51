"""Steps of known content, run on a real runner: what was computed, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from router.exchange.dispatch import Ints
from router.gateway.sizes import BLOCK_SIZE
from router.model.experts_port import PassingExperts, PendingRows, RoutedExperts
from router.model.runner import PagedRunner, SequenceChunk
from shards.adapters.tokens import TokenAdapters

EXPERTS = "experts and wire"
DISPATCH = "dispatch"
HEAD = "head"
EMBED = "embed"
NOT_LAYERS = frozenset({EXPERTS, DISPATCH, HEAD, EMBED})


@dataclass(frozen=True, slots=True)
class StepShape:
    """``num_sequences`` times ``num_new`` tokens, after ``context`` tokens each."""

    num_sequences: int
    num_new: int
    context: int

    @property
    def num_tokens(self) -> int:
        """Of the step."""
        return self.num_sequences * self.num_new

    @property
    def num_pairs(self) -> int:
        """Queries times the keys that each sees, its own among them."""
        own = self.num_new * (self.num_new + 1) // 2
        return self.num_sequences * (self.num_new * self.context + own)

    @property
    def blocks_each(self) -> int:
        """Cache blocks of a sequence."""
        return -(-(self.context + self.num_new) // BLOCK_SIZE)

    @property
    def num_blocks(self) -> int:
        """Cache blocks that are needed: those of all sequences, and block 0, which is nobody's."""
        return 1 + self.num_sequences * self.blocks_each


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePlan:
    """Which steps are measured, and for how long."""

    decode_sequences: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    prefill_tokens: tuple[int, ...] = (64, 128, 256, 512, 1024)
    contexts: tuple[int, ...] = (64, 512, 2048)
    exchange_tokens: tuple[int, ...] = (1, 16, 256)
    shard_counts: tuple[int, ...] = (1, 2, 4)
    budget_s: float = 60.0

    def counts_on(self, num_cores: int) -> list[int]:
        """Numbers of shards that each have a core; the smallest number, where there is but one."""
        counts = [count for count in self.shard_counts if count <= num_cores]
        return counts or [min(self.shard_counts)]

    def steps(self, max_positions: int) -> list[StepShape]:
        """Decode steps at every context; prefill chunks at the start and at the last context."""
        contexts = [c for c in self.contexts if c + max(self.prefill_tokens) <= max_positions]
        contexts = contexts or [0]
        shapes = [StepShape(n, 1, c) for c in contexts for n in self.decode_sequences]
        starts = sorted({0, contexts[-1]})
        fitting = [n for n in self.prefill_tokens if n <= max_positions]
        return shapes + [StepShape(1, n, c) for c in starts for n in fitting]


class StepSample(NamedTuple):
    """Seconds of one run of a step, all layers together."""

    layers_s: float  # parts of the layers but for experts and wire
    loop_s: float  # the layers' part of the whole run: with what lies between the parts
    experts_s: float  # computed here, or waited for
    dispatch_s: float
    head_s: float


def chunks_of(shape: StepShape, vocab_size: int, seed: int) -> list[SequenceChunk]:
    """Random tokens with blocks of their own; the same for the same seed.

    The cache's content does not matter: attention takes as long over zeros.
    """
    rng = np.random.default_rng(seed)
    length = shape.context + shape.num_new
    tokens = rng.integers(0, vocab_size, (shape.num_sequences, length))
    each = shape.blocks_each
    return [
        SequenceChunk(ids.tolist(), shape.context, shape.num_new, blocks, 1)
        for number, ids in enumerate(tokens)
        for blocks in [list(range(1 + number * each, 1 + (number + 1) * each))]
    ]


def run_step(runner: PagedRunner, step: int, chunks: Sequence[SequenceChunk]) -> StepSample:
    """Run it and read the runner's timer. Seconds are measured with the wall clock."""
    runner.timer.reset()
    started = time.perf_counter()
    runner.run(step, chunks)
    wall_s = time.perf_counter() - started
    parts = runner.timer.snapshot()
    outside = sum(parts.get(name, 0.0) for name in NOT_LAYERS)
    return StepSample(
        layers_s=sum(s for name, s in parts.items() if name not in NOT_LAYERS),
        loop_s=wall_s - outside,
        experts_s=parts.get(EXPERTS, 0.0),
        dispatch_s=parts.get(DISPATCH, 0.0),
        head_s=parts.get(HEAD, 0.0),
    )


class Rounds:
    """Repetitions that go round all points, so that a change of the machine touches all alike."""

    def __init__(self, deadline_s: float, at_least: int = 3, at_most: int = 40) -> None:
        """``deadline_s`` of ``time.monotonic``; rounds below ``at_least`` are made even so."""
        self._deadline_s = deadline_s
        self._at_least, self._at_most = at_least, at_most

    def __iter__(self) -> Iterator[int]:
        """Numbers of the rounds; none is begun that would last beyond the deadline."""
        longest_s = 0.0
        for number in range(self._at_most):
            started_s = time.monotonic()
            if number >= self._at_least and started_s + longest_s > self._deadline_s:
                return
            yield number
            longest_s = max(longest_s, time.monotonic() - started_s)


class _Watch(PassingExperts):
    """Notes who goes where, and passes on."""

    def __init__(self, inner: RoutedExperts) -> None:
        super().__init__(inner)
        self.expert_ids: list[Ints] = []

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: Ints,
        adapters: TokenAdapters | None = None,
    ) -> PendingRows:
        self.expert_ids.append(expert_ids.copy())
        return super().begin(layer, micro_batch, x, expert_ids, adapters)


def routing_of(runner: PagedRunner, chunks: Sequence[SequenceChunk]) -> list[Ints]:
    """``[T, K]`` experts of every layer of a step, by running it once."""
    inner = runner.exchange
    runner.exchange = watch = _Watch(inner)
    try:
        runner.run(0, chunks)
    finally:
        runner.exchange = inner
    return watch.expert_ids


def mean_touched(routing: Sequence[Ints]) -> float:
    """Distinct experts of a layer, on average over layers."""
    return float(np.mean([len(np.unique(ids)) for ids in routing]))
