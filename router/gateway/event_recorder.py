"""What the engine tells of itself, as the events of a record: one place for who writes them and
who compares them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from galerne.ids import Epoch
from router.engine.plan import StepPlan
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler_config import SchedulerConfig
from router.gateway import record_events as events
from router.gateway.record_events import Event


class EventRecorder(ABC):
    """Implements ``StepRecorder`` but for ``close``."""

    @abstractmethod
    def _put(self, make: Callable[[], Event]) -> None:
        """Take in what makes the next event; it may be called later, on another thread."""

    def added(self, request: GenerationRequest) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.Added(request))

    def aborted(self, request_id: str, choice: int | None, ended: Sequence[int]) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.Aborted(request_id, choice, tuple(ended)))

    def preempted(self, request_id: str, choices: Sequence[int]) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.Preempted(request_id, tuple(choices)))

    def epoch_committed(self, epoch: Epoch, config: SchedulerConfig) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.epoch_committed(epoch, config))

    def fault_noticed(self, part: str, kind: str) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.FaultNoticed(part, kind))

    def planned(self, step: int, plan: StepPlan) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.planned(plan))

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.Sampled(events.outcomes(deltas)))

    def failed(self, reason: str, deltas: Sequence[TokenDelta], *, has_logits: bool) -> None:
        """See ``StepRecorder``."""
        self._put(lambda: events.Failed(reason, has_logits, events.outcomes(deltas)))
