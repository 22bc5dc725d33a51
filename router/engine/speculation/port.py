"""Where guesses come from, as the engine sees it; and one source of them, as the policy does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as AbstractSequence
from typing import Protocol

from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan, Verified
from router.engine.sequence import Sequence
from router.engine.speculation.grant import NO_DRAFTS, Drafts


class Drafting(Protocol):
    """Proposes guesses before a step and hears what became of them. On the engine's thread.

    Guesses change how fast tokens come, never which: none of these methods may raise.
    """

    def drafts(self, decoding: Callable[[], AbstractSequence[Sequence]]) -> Drafts:
        """Guesses at the tokens behind the known ones of sequences that decode.

        ``decoding`` finds those, and is called only where something may be guessed.
        """
        ...

    def ran(self, plan: StepPlan, verified: AbstractSequence[Verified], seconds: float) -> None:
        """A step took so long, in model and sampler; the scheduler has advanced."""
        ...

    def renew(self) -> None:
        """Another topology: what steps took so far says nothing of the next ones."""
        ...

    def report(self, metrics: EngineMetrics) -> None:
        """Bring the counters up to date. From any thread."""
        ...


class NoDrafting:
    """Guesses nothing."""

    def drafts(self, decoding: Callable[[], AbstractSequence[Sequence]]) -> Drafts:
        """See ``Drafting``."""
        del decoding
        return NO_DRAFTS

    def ran(self, plan: StepPlan, verified: AbstractSequence[Verified], seconds: float) -> None:
        """See ``Drafting``."""

    def renew(self) -> None:
        """See ``Drafting``."""

    def report(self, metrics: EngineMetrics) -> None:
        """See ``Drafting``."""


NO_DRAFTING = NoDrafting()


class DraftSource(Protocol):
    """One way to guess. Keeps what it must know of each sequence until the sequence ends."""

    name: str
    follows: bool  # it must see every step of a sequence to guess for it

    def reach(self, sequence: Sequence, most: int) -> int:
        """How many tokens it can guess for a sequence now, at most ``most``."""
        ...

    def draft(
        self, sequences: AbstractSequence[Sequence], most: int
    ) -> Mapping[Sequence, tuple[int, ...]]:
        """Up to ``most`` guesses for each; sequences without any may be left out."""
        ...

    def follow(self, plan: StepPlan) -> None:
        """See a step that the scheduler has advanced by."""
        ...

    def pass_over(self, plan: StepPlan) -> None:
        """Take note that a step was not followed."""
        ...

    def forget_ended(self) -> None:
        """Keep nothing of sequences that have ended."""
        ...
