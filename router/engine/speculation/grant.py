"""Which guesses a step computes: what room nobody else wants of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from typing import TypeAlias

from router.engine.block_pool import BlockPool
from router.engine.plan import StepEntry
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import Sequence

Drafts: TypeAlias = Mapping[Sequence, AbstractSequence[int]]

NO_DRAFTS: Drafts = {}


def grant_drafts(
    entries: list[StepEntry],
    drafts: Drafts,
    config: SchedulerConfig,
    pool: BlockPool,
    num_reserved: int,
) -> list[StepEntry]:
    """Add guesses to a step, first come first served; nobody is preempted for them.

    Args:
        entries: The step without guesses; their sequences hold the blocks for it.
        drafts: Guesses by sequence; those of sequences that do not decode are left out.
        config: Limits of the step.
        pool: Where blocks for the guesses are taken.
        num_reserved: Free blocks that are spoken for.
    """
    granted: list[StepEntry] = []
    budget = config.max_batched_tokens - sum(e.num_tokens for e in entries)
    spare = max(0, pool.num_free - num_reserved)
    for entry in entries:
        draft = tuple(drafts.get(entry.sequence, ()))[: _most(entry, config, budget, spare)]
        if not draft:
            granted.append(entry)
            continue
        blocks = entry.sequence.blocks
        num_tokens = entry.num_tokens + len(draft)
        need = max(0, -(-(entry.start + num_tokens) // config.block_size) - len(blocks))
        taken = pool.allocate(need)
        assert taken is not None, "spare blocks are free"
        blocks += taken
        spare -= need
        budget -= len(draft)
        granted.append(entry._replace(num_tokens=num_tokens, draft=draft))
    return granted


def _most(entry: StepEntry, config: SchedulerConfig, budget: int, spare: int) -> int:
    """How many guesses can be of use to an entry, and have room."""
    if not entry.is_decode:
        return 0
    sequence = entry.sequence
    room = (len(sequence.blocks) + spare) * config.block_size
    most = min(
        budget,
        config.max_chunk_tokens - entry.num_tokens,
        sequence.max_num_tokens - sequence.num_tokens - 1,  # behind the last one there is a draw
        room - entry.start - entry.num_tokens,
    )
    return max(most, 0)
