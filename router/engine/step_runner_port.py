"""The model, as the engine sees it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan
from router.engine.preparing import Preparer
from router.engine.request import GenerationRequest


class StepRunner(Protocol):
    """The model, as the engine calls it: ``PagedRunner`` or ``ReferenceRunner`` behind plans."""

    def on_thread_start(self) -> None:
        """Called once on the engine's thread."""
        ...

    def run_plan(self, step: int, plan: StepPlan) -> npt.NDArray[np.float32]:
        """Logits ``[sum of Stepper.num_logits, V]`` of a plan."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request, when it joins the others, whose adapter is not here.

        Raises:
            InvalidRequestError: Names ``model``.
        """
        ...

    @property
    def preparer(self) -> Preparer:
        """Does what a request needs before it joins the others: its images."""
        ...

    def poll(self) -> None:
        """Take in events between steps."""
        ...

    def unready_reason(self) -> str | None:
        """Why a step could not finish now, or None. Asked from any thread."""
        ...

    def report(self, metrics: EngineMetrics) -> None:
        """Bring the model's own counters up to date."""
        ...

    def close(self) -> None:
        """Release links and threads."""
        ...
