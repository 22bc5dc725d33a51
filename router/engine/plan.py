"""What the scheduler wants computed in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from router.engine.sequence import Sequence

_MAX_IDS = 16


class StepEntry(NamedTuple):
    """Positions ``start`` to ``start + num_tokens`` of one sequence, to be computed in one step.

    The last ``len(draft)`` of them are guesses at tokens that are not drawn yet: the step also says
    what would be drawn behind each, and the guesses count up to the first that is another token.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool  # the last known token is among them: the next one must be sampled
    draft: tuple[int, ...] = ()  # only where it samples

    @property
    def is_decode(self) -> bool:
        """Whether one known token is computed, and perhaps guesses behind it."""
        return self.samples and self.num_tokens == 1 + len(self.draft)


class Verified(NamedTuple):
    """An entry that sampled, and how many of its guesses were what was drawn."""

    entry: StepEntry
    num_accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step. Its block tables are ``entry.sequence.blocks`` and cover the step's positions."""

    entries: tuple[StepEntry, ...]
    preempted: tuple[Sequence, ...]  # lost their blocks; none of them is in ``entries``
    num_tokens: int
    num_samples: int

    @property
    def request_ids(self) -> str:
        """Whose step it is, for a log: each once, the first few if they are many."""
        ids = list(dict.fromkeys(entry.sequence.request_id for entry in self.entries))
        more = f",and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
        return ",".join(ids[:_MAX_IDS]) + more
