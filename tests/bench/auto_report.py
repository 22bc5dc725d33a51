"""What a live run shows, phase by phase. Pure."""

from dataclasses import dataclass
from itertools import pairwise

from tests.bench.plots import figure

_NUM_WINDOWS = 60  # of a run, in the plot


@dataclass(frozen=True)
class Phase:
    """A part of the load; seconds since it began."""

    name: str
    rate: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Objectives:
    """At most, seconds."""

    ttft_p95_s: float
    inter_token_p95_s: float


def judge(result, phases, objectives):
    """Of every phase its summary, and whether the objectives held: in all of it, and in its second
    half, when what a change of load asks for has been done.
    """
    rows = []
    for phase in phases:
        whole = result.summary(phase.start_s, phase.end_s)
        late = result.summary((phase.start_s + phase.end_s) / 2, phase.end_s)
        good = [
            a
            for a in result.answers
            if phase.start_s <= a.due_s < phase.end_s
            and not a.error
            and a.ttft_s <= objectives.ttft_p95_s
        ]
        rows.append(
            {
                "phase": phase.name,
                "rate": phase.rate,
                **whole,
                "is_held": _holds(whole, objectives),
                "is_held_late": _holds(late, objectives),
                "share_in_time": len(good) / max(1, whole["requests"]),
            }
        )
    return rows


def _holds(summary, objectives):
    """None: there was nothing to hold."""
    ttft, between = summary["ttft_s"]["p95"], summary["inter_token_s"]["p95"]
    if summary["failed"]:
        return False
    if ttft is None or between is None:
        return None
    return ttft <= objectives.ttft_p95_s and between <= objectives.inter_token_p95_s


def changes(shapes, began_unix_s, phases):
    """(changes of topology since the load began, those among them that went back to one that was
    left within the same phase), as (seconds, phase, from, to).
    """
    made, back = [], []
    left = set()
    phase_now = None
    for before, after in pairwise(shapes):
        at_s = after.since_unix_s - began_unix_s
        if at_s < 0:
            continue
        phase = next((p.name for p in phases if p.start_s <= at_s < p.end_s), "after")
        if phase != phase_now:
            left, phase_now = set(), phase
        change = (round(at_s, 1), phase, before.name, after.name)
        made.append(change)
        if after.name in left:
            back.append(change)
        left.add(before.name)
    return made, back


def table(runs):
    """Markdown; ``runs``: mode -> what ``live_auto.run`` gave."""
    heads = ("phase", "mode", "requests", "failed", "TTFT p50", "p95", "token p50", "p95")
    heads += ("completion", "held", "held in its second half")
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|{'---:|' * 7}---|---|"
    for number in range(len(next(iter(runs.values()))["phases"])):
        for mode, run in runs.items():
            row = run["phases"][number]
            ttft, between = row["ttft_s"], row["inter_token_s"]
            times = (ttft["p50"], ttft["p95"], between["p50"], between["p95"])
            cells = [f"{row['phase']} {row['rate']:g}/s", mode, row["requests"], row["failed"]]
            cells += [_text(s) for s in (*times, row["completion_s"]["mean"])]
            cells += [_word(row["is_held"]), _word(row["is_held_late"])]
            yield f"| {' | '.join(map(str, cells))} |"


def _text(seconds):
    return "" if seconds is None else f"{1e3 * seconds:.0f} ms"


def _word(is_held):
    return {None: "", True: "yes", False: "no"}[is_held]


def decision_lines(decisions, began_unix_s):
    """Decisions with their reasons."""
    for decision in decisions:
        at_s = decision["time_s"] - began_unix_s
        yield (
            f"{at_s:7.1f} s {decision['action']}: {decision['current']} -> {decision['target']}; "
            f"{decision['reason']} (binding: {decision['binding']}; {decision['sensitivity']})"
        )


def plot(runs, results, phases_by_mode, objectives, stem):
    """Load, latencies of all modes and the topology of ``auto`` over the part of the run."""
    with figure(stem, rows=4, size=(10, 10), sharex=True) as axes:
        for mode, result in results.items():
            end_s = phases_by_mode[mode][-1].end_s
            width_s = end_s / _NUM_WINDOWS
            spans = [(i * width_s, (i + 1) * width_s) for i in range(_NUM_WINDOWS)]
            told = [result.summary(*span) for span in spans]
            places = [(a + b) / 2 / end_s for a, b in spans]
            axes[0].plot(places, [t["arrivals_per_s"] for t in told], label=mode)
            for axis, name in ((axes[1], "ttft_s"), (axes[2], "inter_token_s")):
                pairs = [
                    (place, t[name]["p95"])
                    for place, t in zip(places, told, strict=True)
                    if t[name]["p95"] is not None
                ]
                axis.plot(*zip(*pairs, strict=True), label=mode)
        _limits(axes, objectives)
        shown = runs.get("auto") or next(iter(runs.values()))
        _topologies(axes[3], shown)
        for phase in phases_by_mode[next(iter(results))]:
            whole_s = phases_by_mode[next(iter(results))][-1].end_s
            for axis in axes:
                axis.axvline(phase.start_s / whole_s, color="grey", linewidth=0.5)


def _limits(axes, objectives):
    axes[0].set_ylabel("requests/s")
    axes[1].set(ylabel="TTFT p95, s", yscale="log")
    axes[2].set(ylabel="inter-token p95, s", yscale="log")
    axes[1].axhline(objectives.ttft_p95_s, color="black", linestyle=":")
    axes[2].axhline(objectives.inter_token_p95_s, color="black", linestyle=":")
    axes[0].legend(fontsize=8)


def _topologies(axis, run):
    names = list(dict.fromkeys(name for _, name in run["shapes"]))
    times = [max(0.0, at_s) / run["seconds"] for at_s, _ in run["shapes"]]
    rows = [names.index(name) for _, name in run["shapes"]]
    axis.step([*times, 1.0], [*rows, rows[-1]], where="post")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("part of the run")
