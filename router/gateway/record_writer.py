"""Writes a record beside the engine: its thread hands events over, another one writes them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeAlias

from galerne.clock import Clock
from router.engine.plan import StepPlan
from router.engine.request import TokenDelta
from router.gateway.event_recorder import EventRecorder
from router.gateway.record_events import Closed, Event, Incomplete, to_line

logger = logging.getLogger(__name__)

MAX_PENDING = 8192  # events; a step makes two
_CLOSE_TIMEOUT_S = 10.0

# Step, time, and what makes the event: on the writer's thread, not on the engine's.
_Pending: TypeAlias = tuple[int, float, Callable[[], Event]]


class RecordWriter(EventRecorder):
    """Implements ``StepRecorder``. A disk that cannot keep up costs the record, never a token.

    When more than ``max_pending`` events wait to be written, the record ends there and says so:
    with a gap nothing after it could be repeated.
    """

    def __init__(self, file: BinaryIO, clock: Clock, max_pending: int = MAX_PENDING) -> None:
        """Takes ``file`` over."""
        self._file = file
        self._clock = clock
        self._max_pending = max_pending
        self._started_s = clock.now_s()
        self._step = 0  # which comes next, or runs
        self._has_ended = False  # takes no more events
        self._pending: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def planned(self, step: int, plan: StepPlan) -> None:
        """See ``StepRecorder``."""
        self._step = step
        super().planned(step, plan)

    def sampled(self, deltas: Sequence[TokenDelta]) -> None:
        """See ``StepRecorder``."""
        super().sampled(deltas)
        self._step += 1

    def close(self) -> None:
        """Write what is left and end the file."""
        self._put(Closed)
        self._has_ended = True
        self._pending.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _put(self, make: Callable[[], Event]) -> None:
        if self._has_ended:
            return
        if self._pending.qsize() >= self._max_pending:
            self._has_ended = True
            reason = f"{self._max_pending} events were waiting for the disk"
            logger.warning("record_incomplete step=%d reason=%s", self._step, reason)
            make = lambda: Incomplete(reason)  # noqa: E731
        self._pending.put((self._step, self._clock.now_s() - self._started_s, make))

    def _write_all(self) -> None:
        try:
            with self._file:
                while (pending := self._pending.get()) is not None:
                    step, at_s, make = pending
                    self._file.write(to_line(step, at_s, make()).encode() + b"\n")
                    if self._pending.empty():
                        self._file.flush()  # what has happened survives a kill
        except Exception:  # the border of a thread: the record ends here, the server goes on
            self._has_ended = True
            logger.exception("record_incomplete step=%d", self._step)
