"""Candidates of a decision or a plan as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from galerne.units import seconds_text
from router.api.cluster_port import NAME_LEGEND

if TYPE_CHECKING:
    from galerne.v1 import cluster_pb2 as pb
    from router.api.cluster_port import CandidateFacts

_NUMBERS = ("TTFT p95", "token p95", "request", "max req/s", "load")


def print_candidates(
    console: Console, candidates: Sequence[CandidateFacts | pb.Candidate], num_compared: int
) -> None:
    """The best first; those that are neither chosen nor ruled out lost by their cost."""
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate", no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for candidate in candidates:
        cells = map(escape, _cells(candidate))
        table.add_row(*cells, style="bold" if candidate.is_chosen else None)
    console.print(table, highlight=False)
    console.print(NAME_LEGEND, style="dim", highlight=False)
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
        _verdict(at),
    )


def _verdict(candidate: CandidateFacts | pb.Candidate) -> str:
    words = [name for name in ("chosen", "current") if getattr(candidate, f"is_{name}")]
    return ", ".join([*words, *filter(None, [candidate.reason])])
