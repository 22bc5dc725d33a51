"""Decisions that acted, what came of them, and how wrong predictions have been."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.decision import Decision, DecisionRecord, Measured, Outcome, outcome_of

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

    @property
    def in_force(self) -> tuple[int, Decision] | None:
        """Number and decision that what is measured now comes of; None: of none that is kept."""
        if self._in_force is None:
            return None
        first = self._num_added - len(self._records) + 1
        if self._in_force < first:
            return None
        return self._in_force, self._records[self._in_force - first][1].decision

    def note(self, number: int | None, found: Judgement) -> DecisionRecord | None:
        """Keep what became of a period, and of the decision that was in force; its record.

        None: there was none, or it has been forgotten by now.
        """
        if found.error is not None:
            self._errors.append(found.error)
        first = self._num_added - len(self._records) + 1
        if number is None or number < first or found.outcome is None:
            return None
        time_s, record = self._records[number - first]
        record = DecisionRecord(decision=record.decision, outcome=found.outcome)
        self._records[number - first] = time_s, record
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a period between two commits says. None: nothing."""

    error: float | None = None  # relative, of the predicted completion time
    outcome: Outcome | None = None  # of the decision that was in force


def judgement(
    autoscaler: Autoscaler,
    decision: Decision | None,
    current: Candidate | None,
    measured: Measured,
    settled: tuple[float | None, int],
) -> Judgement:
    """Compare a period between two commits with its prediction. Pure; some hundred predictions.

    A period of too few answers says nothing. What the autoscaler would not have left ``current``
    for, because it carries less and would be too full, is no better choice in hindsight either.

    Args:
        autoscaler: Predicts.
        decision: That led to the period; None: none that is kept.
        current: Served in that period; None: nothing did.
        measured: All answers of the period, also those to who queued before it.
        settled: Mean completion in seconds, and number, of the answers to who came when what
            the time before had left behind was gone. The calibration error counts these alone.
    """
    num = round(measured.requests_per_s * measured.seconds)
    if current is None or num < _MIN_JUDGED:
        return Judgement()
    prediction = autoscaler.predict(current, measured.load)
    mean_s, num_settled = settled
    error = None
    if mean_s and num_settled >= _MIN_JUDGED and math.isfinite(prediction.completion_s):
        error = abs(prediction.completion_s / mean_s - 1)
    if decision is None:
        return Judgement(error=error)

    def replay(candidate: Candidate) -> float:
        return autoscaler.cost(candidate, measured.load, prediction.max_requests_per_s)

    return Judgement(error=error, outcome=outcome_of(decision, measured, prediction, replay))
