"""``make bench-prediction``: what the cost model says of a running server, against what it does.

    python -m tests.bench.prediction [--points 12] [--seconds 30] [--budget-s 20] [--model DIR]
    python -m tests.bench.prediction --again [--model DIR]

25 minutes. One server, its topology changed live. Every point is preceded and followed by a
calibration of the idle machine; its prediction is the mean of the two, and how far they differ in
the length of its decode step is the machine's own drift. No point is used to calibrate. Rates are a
share of what a closed loop of a few seconds reached right before, which also warms up.

Two predictions: of the planner's formulas for the load's means, and of the simulator for the very
arrivals that were sent, of which a few dozen differ from what they are on average. Everything is
kept beside the result; ``--again`` predicts it anew, with a model that was changed meanwhile.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.simulator.workload import Arrival, Lengths, poisson
from tests.bench.calibrating import Calibrator, candidate_of
from tests.bench.open_load import Plan, run_load
from tests.bench.prediction_points import WARM_S, Measured, judge
from tests.bench.prediction_report import error_table, errors_of, plot, progress, table
from tests.bench.served import Served

OUT = Path("bench-out/prediction")
PROBE_S = 4.0

TOPOLOGIES = {
    "local": {"mode": "latency", "transport": "local"},
    "2 shm": {"mode": "throughput", "transport": "shm", "shards": 2},
    "3 shm": {"mode": "throughput", "transport": "shm", "shards": 3},
    "2 gateways": {"mode": "throughput", "transport": "local", "gateways": 2},
    "2 grpc": {"mode": "throughput", "transport": "grpc", "shards": 2, "gateways": 1},
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
    """Measured, but for the calibrations around it."""
    candidate = candidate_of(served.topology())
    streams = candidate.gateways * candidate.max_num_seqs
    request = [Arrival(0.0, point.prompt, point.output)]
    probe = Plan(arrivals=request, streams=streams, seconds=PROBE_S, seed=seed)
    reached = run_load(served.grpc, probe).summary(PROBE_S / 4, PROBE_S)
    most_per_s = reached["tokens_per_s"] / point.output  # finer than whole requests
    if point.share is None:
        arrivals, rate = [], None
        plan = Plan(arrivals=request, streams=streams, seconds=seconds, seed=seed + 1)
    else:
        lengths = Lengths(prompt_mean=point.prompt, output_mean=point.output)
        arrivals = list(poisson(point.share * most_per_s, lengths, seconds, seed))
        rate = len(arrivals) / seconds
        plan = Plan(arrivals=arrivals, seed=seed + 1)
    found = run_load(served.grpc, plan).summary(WARM_S, seconds)
    if point.share is None:
        quantities = {"capacity_per_s": found["tokens_per_s"] / point.output}
    else:
        quantities = _quantities(found)
    sizes = {"prompt": point.prompt, "output": point.output, "rate": rate}
    return Measured(
        **sizes,
        arrivals=arrivals,
        candidate=candidate,
        found=found,
        quantities=quantities,
        around=(),
    )


def _quantities(found):
    ttft, between = found["ttft_s"], found["inter_token_s"]
    return {
        "ttft_p50_s": ttft["p50"],
        "ttft_p95_s": ttft["p95"],
        "inter_token_p50_s": between["p50"],
        "inter_token_p95_s": between["p95"],
        "completion_s": found["completion_s"]["mean"],
        "requests_per_s": found["requests_per_s"],
    }


def measure(arguments, kept):
    """Points in order, each in a file of its own in ``kept``."""
    calibrator = Calibrator(arguments.model, arguments.budget_s)
    flags = ("--model", arguments.model) if arguments.model else ()
    served = Served("--max-model-len", "4096", *flags)
    now = None
    try:
        before = calibrator.measure()
        for number, point in enumerate(POINTS[: arguments.points]):
            if point.topology != now:
                served.change(**TOPOLOGIES[point.topology])
                served.wait_well()
                now = point.topology
            seed = arguments.seed + 10 * number
            measured = run_point(served, point, arguments.seconds, seed)
            after = calibrator.measure()
            measured = replace(measured, around=(before, after))
            measured.save(kept / f"{number:02}.json")
            print(progress(number, judge(measured)), flush=True)
            before = after
    finally:
        served.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=len(POINTS), help="the first so many")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load at each point")
    parser.add_argument("--budget-s", type=float, default=20.0, help="of each calibration")
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="predict what was measured last")
    arguments = parser.parse_args()
    stem = OUT if not arguments.model else OUT.with_name(f"{OUT.name}-{Path(arguments.model).name}")
    if not arguments.again:
        for old in stem.glob("*.json"):
            old.unlink()
        measure(arguments, stem)
    rows = [judge(Measured.read(path)) for path in sorted(stem.glob("*.json"))]
    errors = {kind: errors_of(rows, kind) for kind in ("predicted", "simulated")}
    plot(rows, stem)
    stem.with_suffix(".json").write_text(json.dumps({"points": rows, "errors": errors}, indent=1))
    print("\n".join([*table(rows), "", *error_table(errors)]))


if __name__ == "__main__":
    main()
