"""What the engine tells of itself, so that a run can be repeated step by step. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from galerne.ids import Epoch
from router.engine.plan import StepPlan
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler_config import SchedulerConfig


class StepRecorder(Protocol):
    """Hears everything that decides what the engine does next, in the order in which it happens.

    Called on the engine's thread (``fault_noticed`` also on that which prepares an epoch): no
    method may block or raise. What it is given does not change afterwards (of a plan: the entries,
    and who their sequences are).
    """

    def added(self, request: GenerationRequest) -> None:
        """A request was admitted to the queue."""
        ...

    def aborted(self, request_id: str, choice: int | None, ended: Sequence[int]) -> None:
        """A request (or one choice) was aborted; ``ended`` are the choices that this ended."""
        ...

    def preempted(self, request_id: str, choices: Sequence[int]) -> None:
        """Choices were forced to give up their blocks."""
        ...

    def epoch_committed(self, epoch: Epoch, config: SchedulerConfig) -> None:
        """From the next step on the gateway is in ``epoch``, with these limits."""
        ...

    def fault_noticed(self, part: str, kind: str) -> None:
        """What the gateway believes of a part has changed: ``down``, ``suspect``, or ``up``."""
        ...

    def planned(self, step: int, plan: StepPlan) -> None:
        """A step begins. ``step`` counts steps that succeeded: after a failed one it stays."""
        ...

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """The planned step succeeded; its deltas."""
        ...

    def failed(self, reason: str, deltas: Sequence[TokenDelta], *, has_logits: bool) -> None:
        """The planned step failed, in the model or (``has_logits``) in sampling; its deltas.

        Without any, it was dropped: what it planned is planned anew.
        """
        ...

    def close(self) -> None:
        """The engine has ended; nothing follows."""
        ...


class NullRecorder:
    """Records nothing."""

    def added(self, request: GenerationRequest) -> None:
        """See ``StepRecorder``."""

    def aborted(self, request_id: str, choice: int | None, ended: Sequence[int]) -> None:
        """See ``StepRecorder``."""

    def preempted(self, request_id: str, choices: Sequence[int]) -> None:
        """See ``StepRecorder``."""

    def epoch_committed(self, epoch: Epoch, config: SchedulerConfig) -> None:
        """See ``StepRecorder``."""

    def fault_noticed(self, part: str, kind: str) -> None:
        """See ``StepRecorder``."""

    def planned(self, step: int, plan: StepPlan) -> None:
        """See ``StepRecorder``."""

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """See ``StepRecorder``."""

    def failed(self, reason: str, deltas: Sequence[TokenDelta], *, has_logits: bool) -> None:
        """See ``StepRecorder``."""

    def close(self) -> None:
        """See ``StepRecorder``."""


NULL_RECORDER = NullRecorder()
