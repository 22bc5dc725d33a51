"""What the scheduler wants computed in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from router.engine.sequence import Sequence


class StepEntry(NamedTuple):
    """Positions ``start`` to ``start + num_tokens`` of one sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool  # the last known token is among them: the next one must be sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step. Its block tables are ``entry.sequence.blocks`` and cover the step's positions."""

    entries: tuple[StepEntry, ...]
    preempted: tuple[Sequence, ...]  # lost their blocks; none of them is in ``entries``
    num_tokens: int
    num_samples: int
