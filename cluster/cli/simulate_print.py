"""A simulation for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.planning.candidate import Candidate, short
from cluster.planning.decision import DecisionRecord
from cluster.simulator.compare import Comparison
from cluster.simulator.result import Result
from galerne.histogram import LogHistogram
from galerne.units import seconds_text
from router.api.cluster_port import NAME_LEGEND

_TIMES = ("TTFT p50", "p95", "token p50", "p95", "request", "p95")


def print_comparison(console: Console, found: Comparison) -> None:
    """Decisions of the autoscaler, then what it and every fixed topology gave."""
    auto = found.auto
    seconds = auto.samples[-1].at_s
    line = f"{auto.num_arrivals:,} requests in {seconds / 60:.1f} min, "
    line += f"decisions {len(auto.records)}, changes {len(auto.commits)}"
    if auto.num_unserved:
        line += f", {auto.num_unserved} requests unserved"
    if auto.calibration_error is not None:
        line += f"; predictions off by {auto.calibration_error:.0%} (median)"
    console.print(line, style="bold", markup=False)
    if auto.samples[0].candidate is not None:
        console.print(f"began with {short(auto.samples[0].candidate)}", markup=False)
    if auto.records:
        console.print(_decisions(auto))
    console.print(_results(found))
    console.print(NAME_LEGEND, style="dim", markup=False)
    console.print(f"regret {found.regret:+.1%} against {short(found.best[0])}", markup=False)


def _decisions(auto: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("from → to", no_wrap=True)
    table.add_column("because")
    for record in auto.records:
        made = record.decision
        table.add_row(f"{made.at_s:.0f} s", _change(record), escape(made.reason))
    return table


def _change(record: DecisionRecord) -> str:
    made = record.decision
    if made.current == made.target:
        return f"{made.action.value}: {short(made.current)}"
    return f"{short(made.current)}\n→ {short(made.target)}"


def _results(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("topology", no_wrap=True)
    for name in (*_TIMES, "node-h", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[Candidate | None, Result]] = [(None, found.auto), *found.static]
    for candidate, result in rows:
        name = "auto" if candidate is None else short(candidate)
        cells = (f"{result.node_seconds / 3600:.2f}", f"{found.cost_of(result):.3g}")
        style = "bold" if candidate is None else None
        table.add_row(name, *_cells(result), *cells, style=style)
    return table


def _cells(result: Result) -> list[str]:
    times = result.latencies
    return [
        _text(histogram, fraction)
        for histogram in (times.ttft_s, times.inter_token_s, times.completion_s)
        for fraction in (0.5, 0.95)
    ]


def _text(histogram: LogHistogram, fraction: float) -> str:
    value = histogram.quantile(fraction)
    return "-" if value is None else seconds_text(value)
