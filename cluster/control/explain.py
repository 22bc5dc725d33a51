"""What the autoscaler has decided and would decide, as facts for people. Pure.

All knowledge of the planner's and the autoscaler's types that interfaces need is in this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeAlias

from cluster.planning.candidate import Candidate, describe, num_nodes, short
from cluster.planning.decision import DecisionRecord, Outcome, plain
from cluster.planning.judge import Judged
from cluster.planning.load import Load, Objectives
from cluster.planning.observed import Observed
from cluster.planning.planner import Plan
from galerne.errors import GalerneError, InvalidRequestError
from galerne.topology import Mode
from router.api.cluster_port import (
    CandidateFacts,
    DecisionFacts,
    ObjectivesFacts,
    ObservedLoad,
    OutcomeFacts,
    ScalerFacts,
    WhatIfFacts,
    WhatIfQuestion,
)

AUTO = "auto"
_NUM_RANKED = 8  # best candidates of a decision, outside its JSON
_NUM_PLANNED = 32  # the same of a plan
_NUM_LISTED = 200  # decisions in one answer: some 1 MB
_LOAD_FIELDS = ("requests_per_s", "prompt_tokens", "output_tokens", "arrival_cv2")
_NOTHING = Load(requests_per_s=0, prompt_tokens=0, output_tokens=0)
NumberedRecord: TypeAlias = tuple[int, float, DecisionRecord]  # the float: seconds since 1970


class NoAutoscalerError(GalerneError):
    """Nobody here decides by measured costs."""

    status = "FAILED_PRECONDITION"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no autoscaler runs: {self.reason}"


NOT_CALIBRATED = "the cluster has no calibration: run galerne doctor, then galerne serve anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerView:
    """Where the autoscaler's loop stands."""

    mode: Mode | None  # as set; None: auto
    objectives: Objectives
    observed: Observed | None  # None: it has not looked yet
    calibration_error: float | None  # median relative error so far; None: none was measured
    turned_s_ago: float | None  # since the loop's last turn; None: it has made none
    latest: NumberedRecord | None  # of number 0 where it holds: those are not kept


class Asked(NamedTuple):
    """A question to a planner; the arguments of ``Explainable.plan_for``."""

    load: Load
    objectives: Objectives
    mode: Mode | None  # None: auto
    nodes: int  # more machines for shards than there are


class Found(NamedTuple):
    """What is to be told: plain values that no loop changes any more."""

    now: ScalerView
    record: NumberedRecord | None  # None: no decision was made yet
    last_number: int


class Explainable(Protocol):
    """The autoscaler's shell, as far as it is explained."""

    @property
    def records(self) -> Sequence[NumberedRecord]:
        """Decisions that are kept, oldest first, with rising numbers."""
        ...

    def view(self) -> ScalerView:
        """Where its loop stands now."""
        ...

    def plan_for(self, load: Load, objectives: Objectives, mode: Mode | None, nodes: int) -> Plan:
        """What its planner would choose; see ``Asked``.

        Called on a thread of its own, beside the loop; may take seconds.
        """
        ...


def find(scaler: Explainable, number: int | None = None) -> Found:
    """The latest decision or the one with that number, for ``explain``.

    Raises:
        InvalidRequestError: No decision of that number is kept.
    """
    now, records = scaler.view(), scaler.records
    record = now.latest if number is None else _find(records, number)
    return Found(now, record, max((number for number, _, _ in records[-1:]), default=0))


def explain(found: Found) -> ScalerFacts:
    """The autoscaler's standing and a decision with its JSON, which takes some ms."""
    now, record = found.now, found.record
    return ScalerFacts(
        mode=AUTO if now.mode is None else now.mode.value,
        objectives=ObjectivesFacts(
            ttft_p95_s=now.objectives.ttft_p95_s,
            inter_token_p95_s=now.objectives.inter_token_p95_s,
            max_nodes=now.objectives.max_nodes,
            min_copies=now.objectives.min_copies,
        ),
        decision=None if record is None else _detailed(*record),
        calibration_error=now.calibration_error,
        turned_s_ago=now.turned_s_ago,
        load=None if now.observed is None else _observed(now.observed),
        last_number=found.last_number,
    )


def decisions(records: Sequence[NumberedRecord], after: int) -> list[DecisionFacts]:
    """Those with a higher number, oldest first, without their JSON; 200 at most."""
    found = [record for record in records if record[0] > after]
    return [decision_facts(*record) for record in found[:_NUM_LISTED]]


def asked(question: WhatIfQuestion, now: ScalerView | None = None) -> Asked:
    """What a planner is asked; what is not told is as it is ``now``.

    Raises:
        InvalidRequestError: A length is not told, and no request has been seen.
    """
    seen = now.observed.load if now is not None and now.observed is not None else _NOTHING
    mode = now.mode if now is not None else None
    if question.mode is not None:
        mode = None if question.mode == AUTO else Mode(question.mode)
    return Asked(
        load=_asked_load(question, seen),
        objectives=_asked_objectives(question, now.objectives if now is not None else Objectives()),
        mode=mode,
        nodes=question.nodes,
    )


def _find(records: Sequence[NumberedRecord], number: int) -> NumberedRecord:
    found = next((record for record in records if record[0] == number), None)
    if found is None:
        kept = f"{records[0][0]} to {records[-1][0]} are kept" if records else "none was made yet"
        raise InvalidRequestError("number", f"there is no decision {number}: {kept}")
    return found


def decision_facts(number: int, time_s: float, record: DecisionRecord) -> DecisionFacts:
    """A decision as in a list: all of it but the JSON."""
    made = record.decision
    ends = (made.current, made.target)
    shown = [a for i, a in enumerate(made.ranked) if i < _NUM_RANKED or a.candidate in ends]
    return DecisionFacts(
        number=number,
        time_s=time_s,
        action=made.action.value,
        reason=made.reason,
        binding=made.binding.value,
        is_urgent=made.is_urgent,
        current=short(made.current),
        target=short(made.target),
        text=record.text,
        json="",
        candidates=[_candidate(judged, made.target, made.current) for judged in shown],
        num_candidates=made.num_candidates,
        sensitivity="" if made.sensitivity is None else made.sensitivity.text,
        calibration_error=made.calibration_error,
        load=_observed(made.observed),
        outcome=None if record.outcome is None else _outcome(record.outcome),
    )


def what_if_facts(
    plan: Plan, num_shown: int = _NUM_PLANNED, about: Mapping[str, object] | None = None
) -> WhatIfFacts:
    """A plan for people.

    Args:
        plan: Of the planner.
        num_shown: Candidates outside the JSON, which has all of them.
        about: Plain values that the JSON has besides.
    """
    best = None if plan.chosen is None else plan.chosen.candidate
    chosen = "" if best is None else describe(best)
    sensitivity = "" if plan.sensitivity is None else plan.sensitivity.text
    told = {
        "chosen": None if plan.chosen is None else _plain(plan.chosen),
        "sensitivity": sensitivity or None,
        "candidates": [_plain(verdict) for verdict in plan.verdicts],
        **(about or {}),
    }
    return WhatIfFacts(
        text=f"{chosen}\n{sensitivity}" if chosen else "no topology keeps all limits",
        json=json.dumps(told, allow_nan=False),
        chosen=chosen,
        candidates=[_candidate(judged, best) for judged in plan.verdicts[:num_shown]],
        num_candidates=len(plan.verdicts),
    )


def _asked_load(question: WhatIfQuestion, seen: Load) -> Load:
    told = {f: value for f in _LOAD_FIELDS if (value := getattr(question, f)) is not None}
    load = replace(seen, **told)
    for field in ("prompt_tokens", "output_tokens"):
        if not getattr(load, field):
            raise InvalidRequestError(field, "must be given: no request has been seen yet")
    return load


def _asked_objectives(question: WhatIfQuestion, own: Objectives) -> Objectives:
    def time(field: str) -> float | None:
        told: float | None = getattr(question, field)
        kept: float | None = getattr(own, field)
        return kept if told is None else told or None

    return replace(
        own,
        min_copies=own.min_copies if question.min_copies is None else question.min_copies,
        ttft_p95_s=time("ttft_p95_s"),
        inter_token_p95_s=time("inter_token_p95_s"),
    )


def _detailed(number: int, time_s: float, record: DecisionRecord) -> DecisionFacts:
    told = {"number": number, "time_s": time_s, **record.to_dict()}
    facts = decision_facts(number, time_s, record)
    return replace(facts, json=json.dumps(told, allow_nan=False))


def _candidate(
    judged: Judged, chosen: Candidate | None, current: Candidate | None = None
) -> CandidateFacts:
    candidate, gives = judged.candidate, judged.prediction
    return CandidateFacts(
        name=short(candidate),
        cost=judged.cost,
        reason=judged.reason,
        is_chosen=candidate == chosen,
        is_current=candidate == current,
        ttft_p95_s=gives.ttft_p95_s,
        inter_token_p95_s=gives.inter_token_p95_s,
        completion_s=gives.completion_s,
        max_requests_per_s=gives.max_requests_per_s,
        utilisation=gives.utilisation,
        nodes=num_nodes(candidate),
    )


def _outcome(outcome: Outcome) -> OutcomeFacts:
    return OutcomeFacts(
        seconds=outcome.measured.seconds,
        error_by_quantity=dict(outcome.error_by_quantity),
        best=short(outcome.best),
        regret=outcome.regret,
    )


def _observed(seen: Observed) -> ObservedLoad:
    return ObservedLoad(
        requests_per_s=seen.load.requests_per_s,
        upper_requests_per_s=seen.upper.requests_per_s,
        prompt_tokens=seen.load.prompt_tokens,
        output_tokens=seen.load.output_tokens,
        arrival_cv2=seen.load.arrival_cv2,
        waiting=seen.waiting,
        running=seen.running,
        ttft_p95_s=seen.ttft_p95_s,
        inter_token_p95_s=seen.inter_token_p95_s,
    )


def _plain(verdict: Judged) -> dict[str, object]:
    return {
        "candidate": plain(verdict.candidate),
        "prediction": plain(verdict.prediction),
        "broken": plain(verdict.broken),
        "reason": verdict.reason or "chosen",
    }
