"""Several who hear what the engine tells of itself."""

from __future__ import annotations

from collections.abc import Sequence

from galerne.ids import Epoch
from router.engine.plan import StepPlan
from router.engine.recording import StepRecorder
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler_config import SchedulerConfig


class Recorders:
    """Implements ``StepRecorder`` by telling each in turn."""

    def __init__(self, *recorders: StepRecorder) -> None:
        self._recorders = recorders

    def added(self, request: GenerationRequest) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.added(request)

    def aborted(self, request_id: str, choice: int | None, ended: Sequence[int]) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.aborted(request_id, choice, ended)

    def preempted(self, request_id: str, choices: Sequence[int]) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.preempted(request_id, choices)

    def epoch_committed(self, epoch: Epoch, config: SchedulerConfig) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.epoch_committed(epoch, config)

    def fault_noticed(self, part: str, kind: str) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.fault_noticed(part, kind)

    def planned(self, step: int, plan: StepPlan) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.planned(step, plan)

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.sampled(deltas)

    def failed(self, reason: str, deltas: Sequence[TokenDelta], *, has_logits: bool) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.failed(reason, deltas, has_logits=has_logits)

    def close(self) -> None:
        """See ``StepRecorder``."""
        for recorder in self._recorders:
            recorder.close()
