"""The picture of a training run: loss, rate of right tokens, exact answers of every task."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

GROUPS: Mapping[str, Sequence[str]] = {
    "arithmetic, high": ("add/high", "subtract/high", "compare/high", "sum/high"),
    "arithmetic, none": ("add/none", "subtract/none", "compare/none", "sum/none"),
    "spell, reverse, count": ("spell/none", "reverse/none", "count/none"),
    "tools": ("tool-call/none", "tool-none/none", "tool-result/none", "tool-parallel/none"),
    "pictures": (
        "picture-count/none",
        "picture-which/none",
        "picture-size/none",
        "picture-where/none",
        "picture-all/none",
    ),
    "facts, languages": (
        "capital/none",
        "translate/none",
        "next/none",
        "opposite/none",
        "chat/none",
        "system/none",
    ),
}


def plot_curve(directory: Path, target: Path) -> None:
    """Draw ``text.csv`` and ``exact.jsonl`` of a run's directory as one PNG or SVG."""
    with (directory / "text.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (directory / "exact.jsonl").read_text(encoding="utf-8").splitlines()
    exact = [json.loads(line) for line in lines]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    left.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows])
    left.set(xlabel="step", ylabel="loss per written token", yscale="log", title="Loss")
    for name, tasks in GROUPS.items():
        shares = [sum(row.get(task, 0.0) for task in tasks) / len(tasks) for row in exact]
        right.plot([row["step"] for row in exact], shares, marker=".", label=name)
    right.set(xlabel="step", ylabel="share", title="Test answers exact to the last token")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
