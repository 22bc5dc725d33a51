"""Decisions for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.cli.candidates import print_candidates
from galerne.units import seconds_text
from galerne.v1 import cluster_pb2 as pb


def print_standing(console: Console, info: pb.ScalerInfo) -> None:
    """Mode, objectives, load and the loop, a line each."""
    turned = f"{info.turned_s_ago:.1f} s ago" if info.HasField("turned_s_ago") else "never"
    console.print(f"[bold]{escape(info.mode)}[/]  objectives {_objectives(info.objectives)}")
    if info.HasField("load"):
        console.print(f"load       {_load(info.load)}")
    error = "none measured yet"
    if info.HasField("calibration_error"):
        error = f"off by {info.calibration_error:.0%} (median)"
    console.print(f"loop       last turn {turned}; predictions {error}\n")


def print_decision(console: Console, decision: pb.Decision) -> None:
    """All of it: what, why, when it would be otherwise, what else, what came of it."""
    urgent = ", urgent" if decision.is_urgent else ""
    name = f"decision {decision.number}" if decision.number else "now"
    head = f"{name}  {_at(decision)}  {decision.action}{urgent}: "
    console.print(head + _change(decision), style="bold", markup=False)
    console.print(f"because    {decision.reason}", markup=False)
    console.print(f"binding    {decision.binding}", markup=False)
    if decision.sensitivity:
        console.print(f"otherwise  {decision.sensitivity}", markup=False)
    if decision.HasField("load"):
        console.print(f"load       {_load(decision.load)}", markup=False)
    print_candidates(console, list(decision.candidates), decision.num_candidates)
    if decision.HasField("outcome"):
        print_outcome(console, decision)
    console.print()


def print_outcome(console: Console, decision: pb.Decision) -> None:
    """What was measured after a decision, against what was predicted and what was possible."""
    outcome = decision.outcome
    errors = ", ".join(f"{n} {e:+.0%}" for n, e in sorted(outcome.error_by_quantity.items()))
    lines = (
        f"outcome    in {outcome.seconds:.0f} s: predicted against measured {errors or 'nothing'}",
        f"regret     {outcome.regret:.0%} against {outcome.best}",
    )
    console.print("\n".join(lines), markup=False)


def decisions_table(decisions: Iterable[pb.Decision]) -> Table:
    """One row each, oldest first."""
    table = Table(box=None, pad_edge=False)
    for name in ("number", "time", "action", "from → to", "reason", "regret"):
        right = name in ("number", "regret")
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(name, justify=justify, no_wrap=name != "reason")
    for decision in decisions:
        regret = f"{decision.outcome.regret:.0%}" if decision.HasField("outcome") else ""
        change = _change(decision, "\n→ ")
        cells = (_at(decision), decision.action, change, decision.reason)
        table.add_row(str(decision.number), *map(escape, cells), regret)
    return table


def _at(decision: pb.Decision) -> str:
    return datetime.fromtimestamp(decision.time_s).astimezone().strftime("%H:%M:%S")


def _change(decision: pb.Decision, to: str = " → ") -> str:
    if decision.target == decision.current:
        return decision.current
    return f"{decision.current}{to}{decision.target}"


def _load(load: pb.ObservedLoad) -> str:
    return (
        f"{load.requests_per_s:.3g} req/s (at most {load.upper_requests_per_s:.3g}), "
        f"{load.prompt_tokens:.0f} + {load.output_tokens:.0f} tokens, "
        f"{load.waiting} waiting, {load.running} running"
    )


def _objectives(objectives: pb.Objectives) -> str:
    names = {"ttft_p95_s": "TTFT p95", "inter_token_p95_s": "token p95"}
    parts = [
        f"{name} at most {seconds_text(getattr(objectives, field))}"
        for field, name in names.items()
        if objectives.HasField(field)
    ]
    if objectives.HasField("max_nodes"):
        parts.append(f"at most {objectives.max_nodes} nodes")
    if objectives.min_copies > 1:
        parts.append(f"{objectives.min_copies} copies of every expert")
    return ", ".join(parts) or "none"
