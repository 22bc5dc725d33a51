"""``make bench-auto``: a load that goes quiet, steady, burst, quiet, against ``--mode auto`` and
both static modes.

    python -m tests.bench.live_auto [--minutes 15] [--model checkpoints/1b] [--modes auto latency]

The same seeded load three times, each on a server of its own: ``auto`` for all minutes, the static
modes for a third of them, with the phases in proportion. Says what was decided and why, whether the
objectives held in each phase, how often the topology changed, how often it went back within a
phase, and what failed.
"""

import argparse
import json
import time
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

from cluster.simulator.workload import Lengths, phases
from tests.bench import auto_report
from tests.bench.auto_report import Objectives, Phase
from tests.bench.calibrating import Calibrator
from tests.bench.open_load import LoadProcess, Plan
from tests.bench.served import Served
from tests.bench.topology_watch import ReasonWatch, TopologyWatch, decisions_of

OUT = Path("bench-out/live-auto")
SHARES = {"quiet": 0.2, "steady": 0.3, "burst": 0.2, "quiet again": 0.3}
MODES = ("auto", "latency", "throughput")
STATIC_PART = 1 / 3  # of the minutes
ASKED_BEFORE_S = 3.0  # the end of a phase


def phases_of(arguments, seconds):
    """The load's parts in so many seconds."""
    rates = (arguments.quiet, arguments.steady, arguments.burst, arguments.quiet)
    ends = list(accumulate(share * seconds for share in SHARES.values()))
    starts = [0.0, *ends[:-1]]
    return [Phase(*row) for row in zip(SHARES, rates, starts, ends, strict=True)]


def run(mode, arguments, parts):
    """(plain values, the load's result)."""
    flags = ["--mode", mode, "--max-model-len", "4096"]
    flags += ["--model", arguments.model] if arguments.model else []
    if mode == "auto":
        flags += ["--ttft-p95-s", str(arguments.ttft_p95_s)]
        flags += ["--inter-token-p95-s", str(arguments.inter_token_p95_s)]
        flags += [flag for text in arguments.auto_flags for flag in text.split()]
    lengths = Lengths(prompt_mean=arguments.prompt, output_mean=arguments.output)
    spans = [(part.rate, part.end_s - part.start_s) for part in parts]
    plan = Plan(arrivals=list(phases(spans, lengths, arguments.seed)), seed=arguments.seed)
    served = Served(*flags)
    try:
        served.streams(range(4), 32)  # warms up
        watch = TopologyWatch(served)
        time.sleep(2)
        load, asks = LoadProcess(served.grpc, plan), []
        if mode == "auto":
            asks = [time.time() + part.end_s - ASKED_BEFORE_S for part in parts]
        why = ReasonWatch(served, asks)
        result = load.wait()
        watch.close()
        why.close()
        decisions = decisions_of(served) if mode == "auto" else []
        events = served.events(result.began_unix_s)
    finally:
        served.close()
    began_s = result.began_unix_s
    made, back = auto_report.changes(watch.shapes, began_s, parts)
    told = {
        "seconds": parts[-1].end_s,
        "began_unix_s": began_s,
        "phases": auto_report.judge(result, parts, objectives_of(arguments)),
        "failed": len(result.failed),
        "errors": [answer.error for answer in result.failed][:5],
        "changes": made,
        "changes_back_within_a_phase": back,
        "shapes": [(shape.since_unix_s - began_s, shape.name) for shape in watch.shapes],
        "decisions": decisions,
        "reasons": why.reasons,
        "events": events,
        "client_cpu_s": result.client_cpu_s,
    }
    return told, result


def objectives_of(arguments):
    return Objectives(arguments.ttft_p95_s, arguments.inter_token_p95_s)


def report(runs):
    lines = [*auto_report.table(runs), ""]
    for mode, told in runs.items():
        back = len(told["changes_back_within_a_phase"])
        lines.append(
            f"{mode}: {told['failed']} failed, {len(told['changes'])} changes of topology, {back} "
            "back within a phase"
        )
        lines += [f"  {at_s:7.1f} s {phase}: {a} -> {b}" for at_s, phase, a, b in told["changes"]]
    auto = runs.get("auto")
    if auto and auto["decisions"] is not None:
        lines += ["decisions of auto:"]
        lines += auto_report.decision_lines(auto["decisions"], auto["began_unix_s"])
        lines += ["asked at the end of each phase:"]
        lines += auto_report.decision_lines(auto["reasons"], auto["began_unix_s"])
    elif auto:
        lines += ["the server tells no decisions; its events:"]
        lines += [f"  {e['at_s']:7.1f} s {e['kind']} {e['text']}" for e in auto["events"]]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="of auto; the others a third")
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--quiet", type=float, default=1.0, help="requests/s")
    parser.add_argument("--steady", type=float, default=6.0, help="requests/s")
    parser.add_argument("--burst", type=float, default=24.0, help="requests/s")
    parser.add_argument("--prompt", type=float, default=64, help="tokens")
    parser.add_argument("--output", type=float, default=64, help="tokens")
    parser.add_argument("--ttft-p95-s", type=float, default=0.5)
    parser.add_argument("--inter-token-p95-s", type=float, default=0.05)
    parser.add_argument("--auto-flags", nargs="*", default=[], help="more for serve, each quoted")
    parser.add_argument("--calibrate-s", type=float, default=0.0, help="galerne doctor before auto")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    runs, results, parts = {}, {}, {}
    for mode in arguments.modes:
        if mode == "auto" and arguments.calibrate_s:
            Calibrator(arguments.model, arguments.calibrate_s).keep()
        part = 1.0 if mode == "auto" else STATIC_PART
        parts[mode] = phases_of(arguments, 60 * arguments.minutes * part)
        runs[mode], results[mode] = run(mode, arguments, parts[mode])
        print(f"{mode}: {runs[mode]['failed']} failed", flush=True)
    stem = OUT if not arguments.model else OUT.with_name(f"{OUT.name}-{Path(arguments.model).name}")
    auto_report.plot(runs, results, parts, objectives_of(arguments), stem)
    told = {"objectives": asdict(objectives_of(arguments)), "runs": runs}
    stem.with_suffix(".json").write_text(json.dumps(told, indent=1))
    print(report(runs))


if __name__ == "__main__":
    main()
