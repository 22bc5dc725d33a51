"""Figures of the benches, as PNG and SVG."""

from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # after the choice of a backend


@contextmanager
def figure(stem, rows=1, columns=1, size=(8, 5), **options):
    """Axes to draw on; written as ``stem``.png and .svg."""
    drawn, axes = plt.subplots(rows, columns, figsize=size, **options)
    try:
        yield axes
        stem.parent.mkdir(exist_ok=True)
        for ending in ("png", "svg"):
            drawn.savefig(f"{stem}.{ending}", dpi=120, bbox_inches="tight")
    finally:
        plt.close(drawn)
