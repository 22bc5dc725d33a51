"""Candidates of a decision or a plan as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from galerne.units import seconds_text

if TYPE_CHECKING:
    from galerne.v1 import cluster_pb2 as pb
    from router.api.cluster_port import CandidateFacts

_NUMBERS = ("TTFT p95", "token p95", "request", "max req/s", "load", "nodes", "cost")


def print_candidates(
    console: Console, candidates: Sequence[CandidateFacts | pb.Candidate], num_compared: int
) -> None:
    """The best first; those that are neither chosen nor ruled out lost by their cost."""
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate", overflow="fold")
    has_cost = any(_cost(candidate) for candidate in candidates)
    for name in _NUMBERS if has_cost else _NUMBERS[:-1]:
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for candidate in candidates:
        cells = _cells(candidate) if has_cost else (*_cells(candidate)[:-2], _verdict(candidate))
        table.add_row(*map(escape, cells), style="bold" if candidate.is_chosen else None)
    console.print(table, highlight=False)
    left = num_compared - len(candidates)
    if left > 0:
        console.print(f"{left} more candidates (--json)", style="dim", highlight=False)


def _cells(candidate: CandidateFacts | pb.Candidate) -> tuple[str, ...]:
    at = candidate
    return (
        at.name,
        *map(seconds_text, (at.ttft_p95_s, at.inter_token_p95_s, at.completion_s)),
        f"{at.max_requests_per_s:.3g}",
        f"{at.utilisation:.0%}",
        str(at.nodes),
        _cost(at),
        _verdict(at),
    )


def _cost(candidate: CandidateFacts | pb.Candidate) -> str:
    cost = candidate.cost  # 0.0 in a message where it is unset
    return f"{cost:.3g}" if cost and math.isfinite(cost) else ""


def _verdict(candidate: CandidateFacts | pb.Candidate) -> str:
    words = [name for name in ("chosen", "current") if getattr(candidate, f"is_{name}")]
    return ", ".join([*words, *filter(None, [candidate.reason])])
