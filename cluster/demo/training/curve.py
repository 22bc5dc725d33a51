"""The picture of a training run: loss, rate of right tokens, exact answers of every task."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from cluster.demo.evaluation.exam import EFFORTS, GROUPS


def plot_curve(directory: Path, target: Path) -> None:
    """Draw ``text.csv`` and ``exact.jsonl`` of a run's directory as one PNG or SVG."""
    with (directory / "text.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (directory / "exact.jsonl").read_text(encoding="utf-8").splitlines()
    exact = [json.loads(line) for line in lines]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4))
    left.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows])
    left.set(xlabel="step", ylabel="loss per written token", yscale="log", title="Loss")
    for group in GROUPS:
        for effort in EFFORTS if group.name == "arithmetic" else EFFORTS[:1]:
            tasks = [f"{task}/{effort}" for task in group.tasks]
            shares = [sum(row.get(task, 0.0) for task in tasks) / len(tasks) for row in exact]
            label = f"{group.name}, effort {effort}"
            right.plot([row["step"] for row in exact], shares, marker=".", label=label)
    right.set(xlabel="step", ylabel="share", title="Test answers exact to the last token")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
