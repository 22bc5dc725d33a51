"""The record of a decision: from what, what else, why, and what came of it."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, Prediction, describe, num_nodes, short
from cluster.planning.judge import Judged
from cluster.planning.limits import Constraint
from cluster.planning.load import Load
from cluster.planning.observed import Observed
from cluster.planning.sensitivity import Sensitivity
from router.api.cluster_port import NAME_LEGEND

_NUM_ROWS = 8  # candidates in the text form
_NUM_KEPT = 160  # the best ones in a decision: a record of 1,000 nodes would have some 2,000
_NUM_REPLAYED = 50  # the best ones that an outcome compares


class Action(enum.Enum):
    """What the shell has to do."""

    HOLD = "hold"
    CHANGE = "change"  # start the change to ``target``
    GIVE_UP = "give_up"  # cancel the change in flight; nothing was committed
    TO_ZERO = "to_zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided at a time, and all that it was decided from."""

    at_s: float
    action: Action
    current: Candidate | None  # None: scaled to zero
    target: Candidate | None  # of the action; the current one if it holds
    observed: Observed
    decided_for: Load  # the load under which costs are compared: the upper estimate
    must_carry_requests_per_s: float  # the same, or more where a queue has to be emptied
    ranked: tuple[Judged, ...]  # the best first; of many those of ``worth_keeping``
    num_candidates: int  # that were compared
    binding: Constraint
    reason: str
    is_urgent: bool  # an objective is broken or about to be: no cool-down, no least gain
    are_objectives_held: bool  # by prediction for the current candidate, its queue included
    sensitivity: Sensitivity | None
    calibration_error: float | None  # median relative error of earlier predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was seen after a decision, until the next change."""

    seconds: float
    load: Load
    requests_per_s: float
    completion_s: float
    ttft_p95_s: float | None
    inter_token_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a decision turned out."""

    measured: Measured
    error_by_quantity: Mapping[str, float]  # predicted / measured - 1
    best: Candidate  # by replay of what really arrived
    regret: float  # cost of the choice over the best one's, less 1; 0: it was the best


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A decision, and later its outcome."""

    decision: Decision
    outcome: Outcome | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; see ``plain``."""
        told = plain(self)
        assert isinstance(told, dict)
        return told

    @property
    def text(self) -> str:
        """For a terminal: the decision, the candidates as a table, the outcome."""
        return "\n".join([*_head(self.decision), *_table(self.decision), *_end(self.outcome)])


def worth_keeping(
    ranked: Sequence[Judged], ends: Collection[Candidate | None]
) -> tuple[Judged, ...]:
    """Some 160 at most: the best, the best of each size, both ends of the decision; in order."""
    return _some(ranked, _NUM_KEPT, ends)


def outcome_of(
    decision: Decision,
    measured: Measured,
    prediction: Prediction,
    replay_cost: Callable[[Candidate], float],
) -> Outcome:
    """Compare what came with what was predicted and with what else could have been chosen.

    Replayed are the best 50 possible candidates, the best of each size (another load may have come
    than was decided for), and the two of the decision: one left out could be better still, but
    hardly by more than a prediction can tell.

    Args:
        decision: Its target is not zero.
        measured: What came.
        prediction: Of the target under the measured load, so that an error is the cost model's.
        replay_cost: What a candidate would have cost with the load that really came; from the
            simulator or the cost model, in any unit.

    Raises:
        ValueError: The target is none of the candidates.
    """
    chosen = next((j for j in decision.ranked if j.candidate == decision.target), None)
    if chosen is None:
        raise ValueError(f"{describe(decision.target)} is none of the candidates")
    pairs = {
        "completion_s": (prediction.completion_s, measured.completion_s),
        "ttft_p95_s": (prediction.ttft_p95_s, measured.ttft_p95_s),
        "inter_token_p95_s": (prediction.inter_token_p95_s, measured.inter_token_p95_s),
        "requests_per_s": (prediction.requests_per_s, measured.requests_per_s),
    }
    errors = {name: p / m - 1 for name, (p, m) in pairs.items() if m and math.isfinite(p)}
    everyone = [j for j in decision.ranked if j.is_possible] or [chosen]
    ends = (decision.current, decision.target)
    possible = [j.candidate for j in _some(everyone, _NUM_REPLAYED, ends)]
    costs = {candidate: replay_cost(candidate) for candidate in possible}
    best = min(possible, key=lambda c: costs[c])
    own = costs.get(chosen.candidate, math.inf)
    regret = own / costs[best] - 1 if costs[best] > 0 and own != costs[best] else 0.0
    return Outcome(measured=measured, error_by_quantity=errors, best=best, regret=regret)


def plain(value: object) -> object:
    """Of records for JSON: enums by value, infinite numbers, which JSON has not, as None."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _some(
    ranked: Sequence[Judged], num_best: int, ends: Collection[Candidate | None]
) -> tuple[Judged, ...]:
    best_by_size: dict[int, Candidate] = {}  # by powers of two of machines
    for judged in ranked:
        best_by_size.setdefault(num_nodes(judged.candidate).bit_length(), judged.candidate)
    wanted = {*best_by_size.values(), *ends}
    return tuple(j for i, j in enumerate(ranked) if i < num_best or j.candidate in wanted)


def _head(decision: Decision) -> list[str]:
    seen, lines = decision.observed, []
    lines.append(
        f"{decision.at_s:.1f} s  {decision.action.value}: {short(decision.current)}"
        + (f" → {short(decision.target)}" if decision.target != decision.current else "")
    )
    lines.append(f"  because {decision.reason}; binding: {decision.binding.value}")
    lines.append(
        f"  load {seen.load.requests_per_s:.3g} req/s (at most {seen.upper.requests_per_s:.3g}), "
        f"{seen.load.prompt_tokens:.0f} + {seen.load.output_tokens:.0f} tokens, "
        f"{seen.waiting} waiting, {seen.running} running"
    )
    if decision.sensitivity is not None:
        lines.append(f"  {decision.sensitivity.text}")
    if decision.calibration_error is not None:
        lines.append(f"  predictions so far were off by {decision.calibration_error:.0%} (median)")
    return lines


def _table(decision: Decision) -> list[str]:
    header = ("candidate", "TTFT p95", "token p95", "max req/s", "cost", "")
    rows = [header] + [_row(j) for j in decision.ranked[:_NUM_ROWS]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
    if decision.num_candidates > _NUM_ROWS:
        lines.append(f"  and {decision.num_candidates - _NUM_ROWS} more")
    return [line.rstrip() for line in (*lines, f"  {NAME_LEGEND}")]


def _row(judged: Judged) -> tuple[str, ...]:
    p = judged.prediction
    numbers = (p.ttft_p95_s, p.inter_token_p95_s, p.max_requests_per_s)
    shown = tuple(f"{n:.3g}" for n in numbers)
    return (short(judged.candidate), *shown, f"{judged.cost:.3g}", judged.reason)


def _end(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return []
    errors = ", ".join(f"{name} {error:+.0%}" for name, error in outcome.error_by_quantity.items())
    best = describe(outcome.best)
    return [
        f"  came of it in {outcome.measured.seconds:.0f} s: predictions off by {errors}",
        f"  regret {outcome.regret:.0%} against {best}",
    ]
