"""A plan as a table and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.doctor.store import StoredCalibration
from cluster.planning.candidate import describe
from cluster.planning.judge import Judged
from cluster.planning.planner import Plan


def print_plan(console: Console, plan: Plan, stored: StoredCalibration, num_shown: int) -> None:
    """The choice, at which load it would be another, and the candidates, best first."""
    if plan.chosen is None:
        console.print("no topology keeps all limits; the nearest ones:", style="bold red")
    else:
        console.print(describe(plan.chosen.candidate), style="bold", highlight=False)
    if plan.sensitivity is not None:
        console.print(plan.sensitivity.text, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate", overflow="fold")
    for name in ("TTFT p95", "token p95", "request", "max req/s", "load"):
        table.add_column(name, justify="right")
    table.add_column("why not", overflow="fold")
    for verdict in plan.verdicts[:num_shown]:
        table.add_row(*_cells(verdict))
    console.print(table)
    left = len(plan.verdicts) - num_shown
    more = f"{left} more candidates (--show, --json); " if left > 0 else ""
    console.print(
        f"{more}measured on {stored.machine} {stored.measured_at:%Y-%m-%d %H:%M}, "
        f"drift {stored.drift:+.0%}",
        style="dim",
        highlight=False,
    )


def as_plain(plan: Plan, stored: StoredCalibration) -> dict[str, Any]:
    """For JSON, which knows no infinity: null."""
    return {
        "chosen": None if plan.chosen is None else _plain(plan.chosen),
        "sensitivity": None if plan.sensitivity is None else plan.sensitivity.text,
        "candidates": [_plain(verdict) for verdict in plan.verdicts],
        "measured_at": stored.measured_at.isoformat(),
        "drift": stored.drift,
    }


def _cells(verdict: Judged) -> tuple[str, ...]:
    at = verdict.prediction
    return (
        describe(verdict.candidate),
        *map(_seconds, (at.ttft_p95_s, at.inter_token_p95_s, at.completion_s)),
        f"{at.max_requests_per_s:.3g}",
        f"{at.utilisation:.0%}",
        verdict.reason or "chosen",
    )


def _seconds(value: float) -> str:
    if math.isinf(value):
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _plain(verdict: Judged) -> dict[str, Any]:
    candidate = asdict(verdict.candidate)
    candidate |= {name: candidate[name].value for name in ("mode", "transport")}
    prediction = asdict(verdict.prediction)
    finite = {
        k: None if isinstance(v, float) and math.isinf(v) else v for k, v in prediction.items()
    }
    return {"candidate": candidate, "prediction": finite, "reason": verdict.reason or "chosen"}
