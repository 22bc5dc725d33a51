"""Regret: what a choice cost, against the best of the static ones. Pure but for the plot."""

import math
import statistics

from tests.bench.plots import figure


def medians(rows):
    """Of all rounds of one shape under one load."""
    return {
        "completion_s": statistics.median(row["completion_s"] for row in rows),
        "requests_per_s": statistics.median(row["requests_per_s"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "rounds": len(rows),
    }


def judge(static, auto):
    """Of every load the best static shapes and the regret of ``auto``.

    Args:
        static: shape -> load -> medians.
        auto: load -> medians, with ``"choice"``.

    A regret of 0.1 is a cost, or a time per answer, 10 % above that of the static shape that is
    best at it; below 0: better than all. The cost is a row's ``"cost"``, or its completion time.
    Shapes of which a request failed are not compared.
    """
    found = {}
    for load, own in auto.items():
        shapes = {name: by_load[load] for name, by_load in static.items() if load in by_load}
        sound = {name: m for name, m in shapes.items() if not m["failed"]} or shapes
        best = min(sound, key=lambda name: cost_of(sound[name]))
        fullest = max(sound, key=lambda name: sound[name]["requests_per_s"])
        found[load] = {
            "choice": own["choice"],
            "completion_s": own["completion_s"],
            "requests_per_s": own["requests_per_s"],
            "failed": own["failed"],
            "nodes": own.get("nodes"),
            "best": best,
            "fullest": fullest,
            "regret_cost": cost_of(own) / cost_of(sound[best]) - 1,
            "regret_rate": sound[fullest]["requests_per_s"] / own["requests_per_s"] - 1,
        }
    return found


def cost_of(row):
    """What is compared: a row's cost, or its completion time if it has none."""
    return row.get("cost", row["completion_s"])


def constant_regret(static):
    """shape -> its worst regret of cost over all loads: what a constant choice loses."""
    worst = {}
    for name, by_load in static.items():
        for load, own in by_load.items():
            best = min(cost_of(other[load]) for other in static.values() if load in other)
            worst[name] = max(worst.get(name, 0.0), cost_of(own) / best - 1)
    return worst


def table(static, judged):
    """All shapes by load: completion in ms, and answers/s; then the regret of auto."""
    loads = list(judged)
    yield f"| ms to complete (answers/s) | {' | '.join(loads)} | worst |"
    yield f"|---|{'---:|' * (len(loads) + 1)}"
    worst = constant_regret(static)
    for name, by_load in static.items():
        cells = (_cell(by_load.get(load)) for load in loads)
        yield f"| {name} | {' | '.join(cells)} | {worst[name]:+.0%} |"
    cells = (_cell(judged[load]) for load in loads)
    most = max(own["regret_cost"] for own in judged.values())
    yield f"| auto | {' | '.join(cells)} | {most:+.0%} |"
    yield ""
    yield "| load | auto chose | best static | regret | most answers/s | regret |"
    yield "|---|---|---|---:|---|---:|"
    for load, own in judged.items():
        yield (
            f"| {load} | {own['choice']} | {own['best']} | {own['regret_cost']:+.0%} | "
            f"{own['fullest']} | {own['regret_rate']:+.0%} |"
        )


def _cell(found):
    if found is None:
        return ""
    failed = f", {found['failed']} failed" if found["failed"] else ""
    nodes = f", {found['nodes']:.3g} nodes" if found.get("nodes") else ""
    return f"{1e3 * found['completion_s']:.0f} ({found['requests_per_s']:.3g}{nodes}{failed})"


def plot(static, judged, stem, title):
    """Completion time over that of the best static shape, by load."""
    loads = list(judged)
    with figure(stem, size=(9, 5)) as axes:
        best = {
            load: min(by_load[load]["completion_s"] for by_load in static.values())
            for load in loads
        }
        for name, by_load in static.items():
            ratios = [by_load[load]["completion_s"] / best[load] for load in loads]
            axes.plot(loads, ratios, "o-", linewidth=0.8, markersize=4, label=name)
        ratios = [judged[load]["completion_s"] / best[load] for load in loads]
        axes.plot(loads, ratios, "ko--", label="auto")
        axes.set(yscale="log", ylabel="completion time over the best static one", title=title)
        axes.tick_params(axis="x", rotation=30)
        axes.legend(fontsize=7)


def finite(value):
    """For JSON, which has no infinity."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
