"""``make bench``: our engine and peers on one checkpoint, interleaved, in one run.

    python -m tests.bench.run [--checkpoint DIR] [--rounds 5] [--write] [--no-peers]

Without a checkpoint the 1b preset is written to checkpoints/1b first; llama.cpp is built into
``.peers`` once (10 minutes). Each round measures all engines in turn. Decode speed is
(streams * (tokens - 1)) / (time of ``tokens`` tokens - time of 1 token). The result goes to
bench-out/bench.json and is printed as a table; with --write it goes to deploy/numbers.md, and what
is short of it to the README.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.bench.engines import CORES, OURS, ROOT, start
from tests.bench.marked import NUMBERS, README, write
from tests.bench.report import breakdown, lines, markdown, print_report, short_table

WORKLOADS = {
    "1 stream": {"streams": 1, "prompt": 64, "tokens": 128},
    "16 streams": {"streams": 16, "prompt": 64, "tokens": 32},
    "64 streams": {"streams": 64, "prompt": 64, "tokens": 32},
    "prefill 1024": {"streams": 1, "prompt": 1024, "tokens": 1},
}
SLOW = {"transformers bf16": ("64 streams",)}  # what would take minutes and is known
BROKEN_DOWN = ("local bf16", "local int4", "shm bf16", "grpc bf16")


def one_b():
    path = ROOT / "checkpoints" / "1b"
    if not (path / "config.json").exists():
        from shards.checkpoint.presets import preset
        from shards.checkpoint.random_checkpoint import write_random_checkpoint

        write_random_checkpoint(path, preset("1b"), seed=4)
    return path


def read_bandwidth():
    """GB/s of a sum over memory on all cores: what the machine gives now."""
    from cluster.doctor.machine import read_bandwidth

    return read_bandwidth(CORES, 1 << 30) / 1e9


def roofline(path):
    """Plots it, in a process whose kernels have threads that wait actively; the plot in words."""
    command = [sys.executable, "-m", "tests.bench.roofline", str(path)]
    env = os.environ | OURS | {"GALERNE_SPIN_US": "200"}
    done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure_all(engines, rounds):
    """Results by workload and engine, and the bandwidth of each round."""
    results = {w: {} for w in WORKLOADS}
    bandwidth = []
    for seed in range(rounds + 1):
        if seed:  # the first round warms up
            bandwidth.append(read_bandwidth())
        for name, workload in WORKLOADS.items():
            for engine, one in engines.items():
                if name in SLOW.get(engine, ()):
                    continue
                result = one.measure(workload, seed)
                if seed:
                    results[name].setdefault(engine, []).append(result)
    return results, bandwidth


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the tables into the documents")
    parser.add_argument("--no-peers", action="store_true", help="without llama.cpp")
    args = parser.parse_args()
    if args.write and args.no_peers:
        parser.error("--write needs peers: the tables compare with them")
    path = args.checkpoint or one_b()
    num_layers = json.loads((path / "config.json").read_text())["num_hidden_layers"]
    engines, shards = start(path, with_peers=not args.no_peers)
    results, bandwidth = measure_all(engines, args.rounds)
    for each in (*engines.values(), *shards):
        each.close()
    decoding = [w for w, workload in WORKLOADS.items() if workload["tokens"] > 1]
    report = {
        "checkpoint": path.name,
        "machine": f"{platform.machine()}, {CORES} cores",
        "rounds": args.rounds,
        "workloads": WORKLOADS,
        "bandwidth": bandwidth,
        "speeds": {
            w: {e: [r["tok_s"] for r in rs] for e, rs in by.items()} for w, by in results.items()
        },
        "breakdown": {
            f"{e}, {w}": breakdown(results[w][e], num_layers)
            for w in decoding[:2]
            for e in BROKEN_DOWN
        },
        "peak_bytes": {
            e: results["1 stream"][e][-1]["whole"]["peak_bytes"]
            for e in engines
            if e.startswith("local")
        },
    }
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    (out / "bench.json").write_text(json.dumps(report, indent=1))
    report["roofline"] = roofline(path)
    print_report(report)
    if args.write:
        write(NUMBERS, "bench", markdown(report))
        write(README, "bench", short_table(lines(report)))


if __name__ == "__main__":
    main()
