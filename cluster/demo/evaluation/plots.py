"""Pictures of the load: every expert of every layer, and what an even placement makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cluster.demo.evaluation.routing import shards_over_mean

SHARDS: Final = (2, 4, 8, 16, 32)
FORMATS: Final = ("png", "svg")


def plot_load(load: npt.NDArray[np.int64], directory: Path) -> list[Path]:
    """Load of each expert over the layer's mean, experts sorted by load; a line per layer."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for layer, row in enumerate(load):
        axes.plot(np.sort(row)[::-1] / row.mean(), label=f"layer {layer}")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="experts, busiest first",
        ylabel="rows / mean of the layer",
        title=f"Rows per expert ({int(load.sum()):,} rows in all)",
        ylim=(0, None),
    )
    axes.legend()
    return _save(figure, directory / "routing-load")


def plot_heat(load: npt.NDArray[np.int64], directory: Path) -> list[Path]:
    """Layer by expert, as numbered: what a placement sees."""
    figure, axes = plt.subplots(figsize=(10, 2.2))
    image = axes.imshow(load / load.mean(axis=1, keepdims=True), aspect="auto", cmap="viridis")
    axes.set(xlabel="expert", ylabel="layer", title="Rows / mean of the layer")
    axes.set_yticks(range(len(load)))
    figure.colorbar(image)
    return _save(figure, directory / "routing-heat")


def plot_imbalance(load: npt.NDArray[np.int64], directory: Path) -> list[Path]:
    """Busiest shard over the mean, when the experts lie on N shards evenly and in order."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for layer, row in enumerate(load):
        ratios = [shards_over_mean(row, count) for count in SHARDS]
        axes.plot(SHARDS, ratios, marker="o", label=f"layer {layer}")
    axes.set(
        xlabel="shards",
        ylabel="rows of the busiest shard / mean",
        title="Imbalance of an even placement",
        ylim=(1, None),
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(SHARDS, [str(count) for count in SHARDS])
    axes.legend()
    return _save(figure, directory / "routing-imbalance")


def _save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    paths = [stem.with_suffix(f".{kind}") for kind in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=120)
    plt.close(figure)
    return paths
