"""Steps that a GPU computes before it serves, so that none of them is the first of its kind.

A kernel is compiled for every tile that a number of rows may ask for, and a decode step's graph is
recorded for every shape: a tenth of a second to several in which all streams would wait. Variants
depend on the number of tokens by thresholds that are factors of two or more apart, so powers of two
meet them all. What is written goes to block 0, which is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.ids import ShardId
from router.exchange.calls import SessionCounters
from router.exchange.links import LinkState
from router.exchange.local import LocalExperts
from router.model.batch import Chunk
from router.model.eagle import EagleHead
from router.model.experts_port import RoutedExperts
from router.model.runner import PagedRunner, SequenceChunk
from router.model.vision import EncodeBatch, VisionTower
from router.profiling import StepWatch
from shards.adapters.tokens import TokenAdapters

MOST_LOGITS: Final = 128  # rows of the head: more take the same kernels
_IMAGE_SIDES: Final = (1, 4, 8, 16)  # tokens: 4 to 1,024 patches
_AT_ONCE: Final = (8, 32)  # of the smallest


class WarmStep(NamedTuple):
    """Equal chunks."""

    num_chunks: int
    num_tokens: int  # of each
    start: int

    @property
    def most_blocks(self) -> int:
        """Of a sequence, if each held one token."""
        return self.start + self.num_tokens


class _Zeros:
    """Rows of experts elsewhere, at once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """See ``PendingRows``."""
        del patience_s
        return self._rows


class AbsentExperts:
    """Implements ``RoutedExperts``: nobody computes, so that no shard need be there yet."""

    def __init__(self) -> None:
        self.links: dict[ShardId, LinkState] = {}
        self.counters = SessionCounters()

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> _Zeros:
        """See ``RoutedExperts``."""
        del layer, micro_batch, adapters
        return _Zeros(x.new_zeros((*expert_ids.shape, x.shape[1])))

    def interrupt(self) -> None:
        """See ``RoutedExperts``."""

    def watch(self, watch: StepWatch | None) -> None:
        """See ``RoutedExperts``."""

    def start_step(self, step: int) -> None:
        """See ``RoutedExperts``."""

    def abandon(self) -> None:
        """See ``RoutedExperts``."""

    def poll(self) -> None:
        """See ``RoutedExperts``."""

    def unreachable(self) -> list[ShardId]:
        """See ``RoutedExperts``."""
        return []

    def close(self) -> None:
        """See ``RoutedExperts``."""


def beside(runner: PagedRunner) -> PagedRunner:
    """A runner of the same model and cache, with times and counters of its own.

    Experts elsewhere are left out; those of this process are the same.
    """
    experts: RoutedExperts = AbsentExperts()
    if isinstance(runner.exchange, LocalExperts):
        experts = LocalExperts(runner.exchange.bank, [ShardId("warm")])
    return PagedRunner(runner.decoder, runner.cache, experts, None)


def warm_runner(
    runner: PagedRunner,
    steps: Sequence[WarmStep],
    on_progress: Callable[[int, int], None],
    adapter: int = 0,
) -> None:
    """Run the steps, all tokens with the adapter of this key; told (done, of)."""
    token_ids = [0] * max(step.most_blocks for step in steps)
    for done, step in enumerate(steps, 1):
        wanted = min(step.num_tokens, MOST_LOGITS)
        blocks = _blocks(step, runner.cache.block_size)
        chunk = SequenceChunk(
            token_ids, step.start, step.num_tokens, blocks, wanted, adapter=adapter
        )
        runner.run(0, [chunk] * step.num_chunks)
        on_progress(done, len(steps))


@torch.inference_mode()
def warm_head(
    head: EagleHead,
    like: torch.Tensor,
    steps: Sequence[WarmStep],
    on_progress: Callable[[int, int], None],
) -> None:
    """The same for an Eagle head; ``like``: any states ``[T, H]`` of the large model."""
    for done, step in enumerate(steps, 1):
        blocks = _blocks(step, head.block_size)
        chunk = Chunk([0] * step.num_tokens, step.start, blocks)
        states = like.new_zeros((step.num_chunks * step.num_tokens, like.shape[1]))
        out = head.run([chunk] * step.num_chunks, states)
        head.logits(out[:MOST_LOGITS])
        on_progress(done, len(steps))


def warm_tower(tower: VisionTower) -> None:
    """Images of some sizes, and several at once."""
    config = tower.rows.config
    cell = config.patch_size * config.spatial_merge_size
    most = max(config.image_size // cell, 1)
    for side in sorted({min(side, most) for side in _IMAGE_SIDES}):
        tower.encode(np.zeros((3, side * cell, side * cell), dtype=np.float32))
    small = np.zeros((3, cell, cell), dtype=np.float32)
    for count in _AT_ONCE:
        batch = EncodeBatch(tower, [small] * count)
        while batch.advance():
            pass


def _blocks(step: WarmStep, block_size: int) -> list[int]:
    return [0] * (-(-step.most_blocks // block_size))
