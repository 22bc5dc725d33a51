"""The guesses of a recorded step, for its repetition: what pays depends on time, which differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as AbstractSequence

from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan, Verified
from router.engine.sequence import Sequence
from router.engine.speculation.grant import NO_DRAFTS, Drafts


class RecordedDrafting:
    """Implements ``Drafting`` with what it is told before each step."""

    def __init__(self) -> None:
        self._next: Mapping[tuple[str, int], tuple[int, ...]] = {}

    def tell(self, draft_by_choice: Mapping[tuple[str, int], tuple[int, ...]]) -> None:
        """The guesses of the next step, by request id and choice."""
        self._next = draft_by_choice

    def drafts(self, decoding: Callable[[], AbstractSequence[Sequence]]) -> Drafts:
        """See ``Drafting``."""
        if not self._next:
            return NO_DRAFTS
        keys = {s: (s.request_id, s.choice) for s in decoding()}
        return {s: self._next[key] for s, key in keys.items() if key in self._next}

    def ran(self, plan: StepPlan, verified: AbstractSequence[Verified], seconds: float) -> None:
        """See ``Drafting``."""

    def renew(self) -> None:
        """See ``Drafting``."""

    def report(self, metrics: EngineMetrics) -> None:
        """See ``Drafting``."""
