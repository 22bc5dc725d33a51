"""A picture of a simulated run: load, queues, nodes, times, and when what was decided."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.planning.candidate import short
from cluster.simulator.result import Quantiles, Result, Sample


def plot(result: Result, file: Path, title: str = "") -> None:
    """Write the run as PNG or SVG, as the file's suffix says.

    From above: requests/s that came, requests that wait and run, machines with the topology in
    force, TTFT and inter-token times (p50 and p95 of what fell between two samples). A dotted line
    is a decision, a full one its commit.

    Raises:
        ValueError: The run has fewer than two samples, or the suffix is neither of both.
    """
    if len(result.samples) < 2:
        raise ValueError("a picture needs two samples at least")
    if file.suffix not in (".png", ".svg"):
        raise ValueError(f"a picture is a .png or .svg, got {file.name}")
    figure = Figure(figsize=(10, 11), layout="constrained")
    load, queues, nodes, ttft, inter_token = figure.subplots(5, 1, sharex=True)
    load.set_title(title)
    _load(load, result.samples)
    _queues(queues, result.samples)
    _nodes(nodes, result)
    _times(ttft, result.samples, [s.ttft_s for s in result.samples], "TTFT, s")
    tokens = [s.inter_token_s for s in result.samples]
    _times(inter_token, result.samples, tokens, "inter-token, s")
    inter_token.set_xlabel("s")
    for axes in (load, queues, nodes, ttft, inter_token):
        for record in result.records:
            axes.axvline(record.decision.at_s, color="grey", linewidth=0.8, linestyle=":")
        for commit in result.commits:
            axes.axvline(commit.at_s, color="black", linewidth=0.8)
    figure.savefig(file, dpi=120)


def _load(axes: Axes, samples: Sequence[Sample]) -> None:
    rates = [new.arrived / (new.at_s - old.at_s) for old, new in itertools.pairwise(samples)]
    axes.stairs(rates, [s.at_s for s in samples])
    axes.set(ylabel="requests/s", ylim=(0, None))


def _queues(axes: Axes, samples: Sequence[Sample]) -> None:
    times = [s.at_s for s in samples]
    axes.plot(times, [s.waiting for s in samples], label="waiting")
    axes.plot(times, [s.running for s in samples], label="running")
    axes.set(ylabel="requests", ylim=(0, None))
    axes.legend(loc="upper right")


def _nodes(axes: Axes, result: Result) -> None:
    times = [s.at_s for s in result.samples]
    axes.step(times, [s.num_nodes for s in result.samples], where="post")
    axes.set(ylabel="machines", ylim=(0, None))
    changes = [(times[0], result.samples[0].candidate)]
    changes += [(commit.at_s, commit.candidate) for commit in result.commits]
    for row, (at_s, candidate) in enumerate(changes):
        place = (at_s, 0.92 - 0.12 * (row % 7))
        text = short(candidate)
        axes.annotate(text, place, xycoords=("data", "axes fraction"), fontsize=6)


def _times(
    axes: Axes, samples: Sequence[Sample], quantiles: Sequence[Quantiles], label: str
) -> None:
    for name in ("p50", "p95"):
        known = [(s.at_s, getattr(q, name)) for s, q in zip(samples, quantiles, strict=True)]
        points = [(at_s, value) for at_s, value in known if value is not None]
        axes.plot([at_s for at_s, _ in points], [value for _, value in points], label=name)
    axes.set(ylabel=label, yscale="log")
    axes.legend(loc="upper right")
