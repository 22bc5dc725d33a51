"""Dashboards as pictures, without Grafana: its layout, titles and legends, our drawing."""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

COLUMN_IN, ROW_IN = 0.62, 0.30  # inches of the grid
MOST_LINES = 6
COLORS = {"red": "#d44a3a", "green": "#299c46", "blue": "#3274d9", "transparent": "#f7f8fa"}
_SUFFIX = {"s": "s", "percentunit": "%", "bytes": "B", "reqps": "/s", "cps": "/s"}


def draw(dashboard, prometheus, out):
    """Query everything, and write one PNG."""
    panels = dashboard["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    size = 24 * COLUMN_IN, (height + 2) * ROW_IN
    figure = plt.figure(figsize=size, facecolor="#f7f8fa")
    figure.text(0.01, 1 - 1.2 / (height + 2), dashboard["title"], fontsize=13, weight="bold")
    for panel in panels:
        at = panel["gridPos"]
        box = (at["x"] / 24, 1 - (at["y"] + at["h"] + 2) / (height + 2))
        if panel["type"] == "row":
            figure.text(box[0] + 0.01, box[1] + 0.002, panel["title"], fontsize=10, weight="bold")
            continue
        margins = (0.04, 1.1 / (height + 2))
        sides = at["w"] / 24 - margins[0] - 0.012, (at["h"] - 2.2) / (height + 2)
        axes = figure.add_axes((box[0] + margins[0], box[1] + margins[1], *sides))
        axes.set_title(panel["title"], fontsize=7.5, loc="left")
        axes.tick_params(labelsize=6)
        _DRAW[panel["type"]](axes, panel, prometheus)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
    plt.close(figure)
    Image.open(out).convert("RGB").quantize(64).save(out, optimize=True)
    print(f"{out}: {Path(out).stat().st_size / 1e3:.0f} kB")


def _series(panel, prometheus):
    """Of all queries, with legends; the largest ones."""
    found = [
        (_legend(target["legendFormat"], labels), samples)
        for target in panel["targets"]
        for labels, samples in prometheus.over_time(target["expr"])
    ]
    return sorted(found, key=lambda one: -max(value for _, value in one[1]))


def _legend(form, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _unit_of(panel):
    return panel["fieldConfig"]["defaults"]["unit"]


def _text(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit and unit != "s":
            return f"{value / limit:.3g} {letter}{_SUFFIX.get(unit, '')}"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1e3 * value:.3g} ms"
    return f"{value:.3g} {_SUFFIX.get(unit, '')}"


def _lines(axes, panel, prometheus):
    series = _series(panel, prometheus)
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    unit = _unit_of(panel)
    if custom.get("stacking", {}).get("mode") == "normal":
        _stack(axes, series[:MOST_LINES])
    else:
        for legend, samples in series[:MOST_LINES]:
            axes.plot(*zip(*samples, strict=True), linewidth=0.9, label=legend)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _text(value, unit))
    axes.grid(linewidth=0.3)
    if series:
        axes.legend(fontsize=5, loc="best", framealpha=0.4, ncols=2)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", fontsize=7)


def _stack(axes, series):
    times = sorted({at_s for _, samples in series for at_s, _ in samples})
    rows = [[dict(samples).get(at_s, 0.0) for at_s in times] for _, samples in series]
    if rows:
        axes.stackplot(times, rows, labels=[legend for legend, _ in series], alpha=0.7)


def _stat(axes, panel, prometheus):
    axes.axis("off")
    series = _series(panel, prometheus)
    if not series:
        axes.text(0.5, 0.4, "no data", transform=axes.transAxes, ha="center", fontsize=9)
        return
    value = series[0][1][-1][1]
    axes.text(
        *(0.5, 0.25, _named(panel, value)),
        transform=axes.transAxes,
        ha="center",
        fontsize=13,
        color=_color(panel, value),
        weight="bold",
    )


def _named(panel, value):
    for mapping in panel["fieldConfig"]["defaults"].get("mappings", ()):
        if str(int(value)) in mapping["options"]:
            return mapping["options"][str(int(value))]["text"]
    return _text(value, _unit_of(panel))


def _color(panel, value):
    color = "blue"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return COLORS[color]


def _bars(axes, panel, prometheus):
    series = _series(panel, prometheus)[:32]
    labels = [legend for legend, _ in series]
    axes.barh(labels, [samples[-1][1] for _, samples in series], color=COLORS["blue"])
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=4)


def _states(axes, panel, prometheus):
    series = _series(panel, prometheus)
    for number, (_, samples) in enumerate(series):
        for at_s, value in samples:
            axes.broken_barh([(at_s, 1.0)], (number - 0.4, 0.8), color=_color(panel, value))
    axes.set_yticks(range(len(series)), [legend for legend, _ in series], fontsize=6)


_DRAW = {
    "timeseries": _lines,
    "stat": _stat,
    "bargauge": _bars,
    "state-timeline": _states,
}
