"""``make bench-prediction``: what the cost model says of a running server, against what it does.

    python -m tests.bench.prediction [--points 12] [--seconds 22] [--budget-s 20] [--model DIR]

13 minutes. One server, its topology changed live. Every point is preceded and followed by a
calibration of the idle machine; its prediction is the mean of the two, and how far they differ in
the length of its decode step is the machine's own drift. No point is used to calibrate. Rates are a
share of what a closed loop of a few seconds reached right before, which also warms up.
"""

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from cluster.planning.load import Load
from cluster.planning.predict import predict
from cluster.simulator.workload import Arrival, Lengths, poisson
from tests.bench.calibrating import Calibrator, candidate_of, name_of
from tests.bench.open_load import Plan, run_load
from tests.bench.plots import figure
from tests.bench.served import Served

OUT = Path("bench-out/prediction")
PROBE_S, WARM_S = 4.0, 2.0
GOAL = 0.15  # median relative error: issue 6

TOPOLOGIES = {
    "local": {"mode": "latency", "transport": "local"},
    "2 shm": {"mode": "throughput", "transport": "shm", "shards": 2},
    "3 shm": {"mode": "throughput", "transport": "shm", "shards": 3},
    "2 gateways": {"mode": "throughput", "transport": "local", "gateways": 2},
    "2 grpc": {"mode": "throughput", "transport": "grpc", "shards": 2},
}


@dataclass(frozen=True)
class Point:
    """A topology under a load."""

    topology: str
    prompt: int
    output: int
    share: float | None  # of the rate that the probe reached; None: closed loop, all slots taken


# Those of one topology follow one another; the first N of a short run are of different kinds.
POINTS = (
    Point("local", 64, 64, 0.5),
    Point("local", 64, 64, None),
    Point("local", 512, 32, 0.15),
    Point("local", 32, 128, 0.8),
    Point("2 shm", 64, 64, 0.5),
    Point("2 shm", 64, 64, None),
    Point("2 shm", 64, 64, 0.15),
    Point("3 shm", 256, 64, 0.5),
    Point("2 gateways", 64, 64, 0.5),
    Point("2 gateways", 64, 64, None),
    Point("2 grpc", 64, 64, 0.15),
    Point("2 grpc", 64, 64, 0.5),
)


def run_point(served, point, seconds, seed):
    """(candidate, load, measured by quantity)."""
    candidate = candidate_of(served.topology())
    streams = candidate.gateways * candidate.max_num_seqs
    request = [Arrival(0.0, point.prompt, point.output)]
    probe = Plan(arrivals=request, streams=streams, seconds=PROBE_S, seed=seed)
    reached = run_load(served.grpc, probe).summary(PROBE_S / 4, PROBE_S)
    most_per_s = reached["tokens_per_s"] / point.output  # finer than whole requests
    if point.share is None:
        plan = Plan(arrivals=request, streams=streams, seconds=seconds, seed=seed + 1)
        found = run_load(served.grpc, plan).summary(WARM_S, seconds)
        rate = found["tokens_per_s"] / point.output
        return candidate, _load(point, 1e9), found, {"capacity_per_s": rate}
    lengths = Lengths(prompt_mean=point.prompt, output_mean=point.output)
    arrivals = list(poisson(point.share * most_per_s, lengths, seconds, seed))
    found = run_load(served.grpc, Plan(arrivals=arrivals, seed=seed + 1)).summary(WARM_S, seconds)
    ttft, between = found["ttft_s"], found["inter_token_s"]
    measured = {
        "ttft_p50_s": ttft["p50"],
        "ttft_p95_s": ttft["p95"],
        "inter_token_p50_s": between["p50"],
        "inter_token_p95_s": between["p95"],
        "completion_s": found["completion_s"]["mean"],
        "requests_per_s": found["requests_per_s"],
    }
    return candidate, _load(point, len(arrivals) / seconds), found, measured


def _load(point, rate):
    return Load(
        requests_per_s=rate,
        prompt_tokens=point.prompt,
        output_tokens=point.output,
        service_cv2=0.0,  # all are of one length
    )


def predicted(shape, calibration, candidate, load, quantities):
    """By quantity, and the decode step, by which the machine's drift is judged."""
    found = predict(shape, calibration, candidate, load)
    names = {"capacity_per_s": "max_requests_per_s"}
    return {q: getattr(found, names.get(q, q)) for q in quantities} | {"step_s": found.step_s}


def judge(shape, point, candidate, load, measured, found, around):
    """A row of the result."""
    before, after = (predicted(shape, c.calibration, candidate, load, measured) for c in around)
    quantities = {}
    for name, value in measured.items():
        guess = (before[name] + after[name]) / 2
        error = guess / value - 1
        quantities[name] = {"predicted": guess, "measured": value, "error": error}
    return {
        "topology": name_of(candidate),
        "prompt": point.prompt,
        "output": point.output,
        "share": point.share,
        "requests_per_s": None if point.share is None else load.requests_per_s,
        "requests": found["requests"],
        "failed": found["failed"],
        "drift": after["step_s"] / before["step_s"] - 1,
        "drift_within": [calibration.drift for calibration in around],
        "quantities": quantities,
    }


def errors_of(rows):
    """Median and worst relative error of each quantity and over all; infinite ones count."""
    by_quantity = {}
    for row in rows:
        for name, told in row["quantities"].items():
            by_quantity.setdefault(name, []).append(abs(told["error"]))
    # The rate of an open loop is the load's own unless it is too much: it would flatter the rest.
    everything = [e for n, values in by_quantity.items() for e in values if n != "requests_per_s"]
    by_quantity["all but requests_per_s"] = everything
    return {
        name: {"median": statistics.median(values), "worst": max(values), "points": len(values)}
        for name, values in by_quantity.items()
        if values
    }


def progress(number, row):
    errors = (f"{name} {told['error']:+.0%}" for name, told in row["quantities"].items())
    return f"{number + 1}. {row['topology']}: {', '.join(errors)}; drift {row['drift']:+.0%}"


def table(rows):
    yield "| topology | load | quantity | predicted | measured | error | drift |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for row in rows:
        rate = "closed" if row["share"] is None else f"{row['requests_per_s']:.2f}/s"
        load = f"{row['prompt']}+{row['output']} at {rate}"
        for name, told in row["quantities"].items():
            numbers = f"{told['predicted']:.4g} | {told['measured']:.4g} | {told['error']:+.0%}"
            yield f"| {row['topology']} | {load} | {name} | {numbers} | {row['drift']:+.0%} |"


def error_table(errors):
    yield "| quantity | points | median error | worst |"
    yield "|---|---:|---:|---:|"
    for name, e in errors.items():
        yield f"| {name} | {e['points']} | {e['median']:.0%} | {e['worst']:.0%} |"


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


def measure(arguments):
    calibrator = Calibrator(arguments.model, arguments.budget_s)
    flags = ("--model", arguments.model) if arguments.model else ()
    served = Served("--max-model-len", "4096", *flags)
    rows, now = [], None
    try:
        before = calibrator.measure()
        for number, point in enumerate(POINTS[: arguments.points]):
            if point.topology != now:
                served.change(**TOPOLOGIES[point.topology])
                served.wait_well()
                now = point.topology
            seed = arguments.seed + 10 * number
            candidate, load, found, measured = run_point(served, point, arguments.seconds, seed)
            after = calibrator.measure()
            row = judge(calibrator.shape, point, candidate, load, measured, found, (before, after))
            print(progress(number, row), flush=True)
            rows.append(row)
            before = after
    finally:
        served.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=len(POINTS), help="the first so many")
    parser.add_argument("--seconds", type=float, default=22.0, help="of load at each point")
    parser.add_argument("--budget-s", type=float, default=20.0, help="of each calibration")
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rows = measure(arguments)
    errors = errors_of(rows)
    stem = OUT if not arguments.model else OUT.with_name(f"{OUT.name}-{Path(arguments.model).name}")
    plot(rows, stem)
    stem.with_suffix(".json").write_text(json.dumps({"points": rows, "errors": errors}, indent=1))
    print("\n".join([*table(rows), "", *error_table(errors)]))


if __name__ == "__main__":
    main()
