"""Predictions beside what was measured: errors, tables, a plot."""

import math
import statistics

from tests.bench.plots import figure

GOAL = 0.15  # median relative error: issue 6


def errors_of(rows, kind):
    """Median and worst relative error of each quantity and over all; infinite ones count.

    ``kind``: ``predicted`` or ``simulated``.
    """
    by_quantity = {}
    for row in rows:
        for name, told in row["quantities"].items():
            if kind in told:
                by_quantity.setdefault(name, []).append(abs(told[f"{kind}_error"]))
    # The rate of an open loop is the load's own unless it is too much: it would flatter the rest.
    by_quantity.pop("requests_per_s", None)
    by_quantity["all"] = [error for values in by_quantity.values() for error in values]
    return {
        name: {"median": statistics.median(values), "worst": max(values), "points": len(values)}
        for name, values in by_quantity.items()
        if values
    }


def progress(number, row):
    errors = (f"{name} {_errors(told)}" for name, told in row["quantities"].items())
    return f"{number + 1}. {row['topology']}: {', '.join(errors)}; drift {row['drift']:+.0%}"


def _errors(told):
    return "/".join(f"{told[k]:+.0%}" for k in ("predicted_error", "simulated_error") if k in told)


def table(rows):
    yield "| topology | load | quantity | measured | predicted | simulated | errors | drift |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for row in rows:
        rate = row["requests_per_s"]
        load = f"{row['prompt']}+{row['output']} " + ("closed" if rate is None else f"{rate:.2f}/s")
        for name, told in row["quantities"].items():
            kinds = ("measured", "predicted", "simulated")
            numbers = " | ".join(f"{told[k]:.4g}" if k in told else "" for k in kinds)
            yield (
                f"| {row['topology']} | {load} | {name} | {numbers} | {_errors(told)} "
                f"| {row['drift']:+.0%} |"
            )


def error_table(errors):
    yield "| quantity | points | formulas: median error | worst | simulator: median error | worst |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, e in errors["predicted"].items():
        yield f"| {name} | {e['points']} | {_both(e)} | {_both(errors['simulated'].get(name))} |"


def _both(error):
    return f"{error['median']:.0%} | {error['worst']:.0%}" if error else "|"


def plot(rows, stem):
    """Predicted over measured, each quantity in a colour; the band is the goal."""
    points = {}
    for row in rows:
        for name, told in row["quantities"].items():
            if math.isfinite(told["predicted"]):
                points.setdefault(name, []).append((told["measured"], told["predicted"]))
    with figure(stem, size=(7, 6)) as axes:
        values = [value for pairs in points.values() for pair in pairs for value in pair]
        ends = (min(values) / 2, max(values) * 2)
        axes.fill_between(
            ends, [e * (1 - GOAL) for e in ends], [e * (1 + GOAL) for e in ends], alpha=0.2
        )
        axes.plot(ends, ends, color="grey", linewidth=0.8)
        for name, pairs in points.items():
            axes.plot(*zip(*pairs, strict=True), "o", label=name, markersize=5)
        axes.set(xscale="log", yscale="log", xlabel="measured", ylabel="predicted")
        axes.set_title(f"seconds, or requests/s; band: {GOAL:.0%}")
        axes.legend(fontsize=8)
