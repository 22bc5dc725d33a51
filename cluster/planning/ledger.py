"""Decisions that acted, what came of them, and how wrong predictions have been."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.decision import Decision, DecisionRecord, Measured, outcome_of

_MAX_RECORDS = 1000
_MAX_ERRORS = 64  # the latest; what a calibration was before it drifted says little
_MIN_JUDGED = 20  # answers, below which a mean says nothing about a prediction


class DecisionLedger:
    """All decisions but holds, numbered from 1; the oldest are forgotten."""

    def __init__(self) -> None:
        self._records: deque[tuple[float, DecisionRecord]] = deque(maxlen=_MAX_RECORDS)
        self._num_added = 0
        self._in_force: int | None = None  # number of the decision that is in effect
        self._errors: deque[float] = deque(maxlen=_MAX_ERRORS)

    @property
    def records(self) -> Sequence[tuple[int, float, DecisionRecord]]:
        """Number, time and decision, the oldest first."""
        first = self._num_added - len(self._records) + 1
        return [(first + i, *record) for i, record in enumerate(self._records)]

    @property
    def calibration_error(self) -> float | None:
        """Median relative error of the completion time; None: nothing was judged yet."""
        return statistics.median(self._errors) if self._errors else None

    def add(self, decision: Decision, time_s: float) -> int:
        """Keep a decision; its number. ``time_s``: as people and logs tell time."""
        self._records.append((time_s, DecisionRecord(decision=decision)))
        self._num_added += 1
        return self._num_added

    def committed(self) -> None:
        """The last decision has taken effect."""
        self._in_force = self._num_added

    def interrupted(self) -> None:
        """Somebody else has changed what is in effect: no decision is to be judged by it."""
        self._in_force = None

    def judge(
        self,
        autoscaler: Autoscaler,
        current: Candidate | None,
        measured: Measured,
        settled: tuple[float | None, int],
    ) -> DecisionRecord | None:
        """Compare a period between two commits with its prediction; its decision's outcome.

        Args:
            autoscaler: Predicts.
            current: Served in that period; None: nothing did.
            measured: All answers of the period, also those to who queued before it.
            settled: Mean completion in seconds, and number, of the answers to who came when what
                the time before had left behind was gone. The calibration error counts these alone.

        A period of too few answers is not judged, and one that began before the first decision has
        no record that is still kept: None.
        """
        num = round(measured.requests_per_s * measured.seconds)
        if current is None or num < _MIN_JUDGED:
            return None
        prediction = autoscaler.predict(current, measured.load)
        mean_s, num_settled = settled
        if mean_s and num_settled >= _MIN_JUDGED and math.isfinite(prediction.completion_s):
            self._errors.append(abs(prediction.completion_s / mean_s - 1))
        if self._in_force is None:
            return None
        index = self._in_force - (self._num_added - len(self._records)) - 1
        if index < 0:
            return None
        time_s, record = self._records[index]
        decision = record.decision

        def replay(candidate: Candidate) -> float:
            return autoscaler.cost(candidate, measured.load)

        outcome = outcome_of(decision, measured, prediction, replay)
        record = DecisionRecord(decision=decision, outcome=outcome)
        self._records[index] = time_s, record
        return record
