"""``make bench-against BASE=commit``: this checkout against another, in interleaved pairs.

    python -m tests.bench.against /path/to/checkout [--pairs 24] [--kinds local shm grpc]

Each side is a gateway behind its service with a frontend's pool, and shards of its own; both stay
loaded, one is idle while the other runs, and who is first alternates. Prints the median of the
paired ratios and its 95 % interval (by the sign test), for decoding.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from tests.bench.engines import NUM_SHARDS, OURS, ROOT, Process
from tests.bench.run import one_b

WORKLOADS = {
    "1 stream": {"streams": 1, "prompt": 64, "tokens": 96},
    "16 streams": {"streams": 16, "prompt": 64, "tokens": 48},
}


class Side:
    """One checkout: its gateways and shards."""

    def __init__(self, root, kinds, path):
        self.shards = []
        if set(kinds) - {"local"}:
            self.shards = [
                Process("tests.bench.shard", path, i, NUM_SHARDS, threads=1, root=root, **OURS)
                for i in range(NUM_SHARDS)
            ]
        addresses = [shard.said["address"] for shard in self.shards]
        worker = ROOT / "tests/bench/path_worker.py"
        self.gateways = {
            kind: Process(
                worker,
                kind,
                path,
                *(() if kind == "local" else addresses),
                threads=2 if kind == "local" else 1,
                root=root,
                **OURS | ({"GALERNE_SPIN_US": "200"} if kind == "local" else {}),
            )
            for kind in kinds
        }

    def decode(self, kind, workload, seed):
        """Generated tokens per second after the first."""
        ask = self.gateways[kind].ask
        first = ask(workload | {"tokens": 1, "seed": seed})["seconds"]
        whole = ask(workload | {"seed": seed})["seconds"]
        return workload["streams"] * (workload["tokens"] - 1) / (whole - first)

    def close(self):
        for process in (*self.gateways.values(), *self.shards):
            process.close()


def interval(ratios):
    """The 95 % interval of the median: order statistics of the binomial distribution."""
    ordered, n = sorted(ratios), len(ratios)
    below, rank = 0.0, 0
    while (below := below + math.comb(n, rank) / 2**n) <= 0.025:
        rank += 1
    return ordered[max(rank - 1, 0)], ordered[min(n - rank, n - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--kinds", nargs="*", default=["local", "shm"])
    arguments = parser.parse_args()
    path = one_b()
    base, ours = (Side(root, arguments.kinds, path) for root in (arguments.base, ROOT))
    results = {}
    for number in range(arguments.pairs + 1):
        for kind in arguments.kinds:
            for name, workload in WORKLOADS.items():
                order = (base, ours) if number % 2 else (ours, base)
                speeds = {side: side.decode(kind, workload, number) for side in order}
                if number:  # the first warms up
                    pair = speeds[ours] / speeds[base]
                    results.setdefault((kind, name), []).append((pair, speeds[base], speeds[ours]))
    rows = []
    for (kind, name), pairs in results.items():
        ratios = [pair for pair, _, _ in pairs]
        low, high = interval(ratios)
        row = {
            "kind": kind,
            "workload": name,
            "pairs": len(ratios),
            "median_ratio": round(statistics.median(ratios), 4),
            "interval": [round(low, 4), round(high, 4)],
            "base_tok_s": round(statistics.median(b for _, b, _ in pairs), 1),
            "ours_tok_s": round(statistics.median(o for _, _, o in pairs), 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    (out / "against.json").write_text(json.dumps(rows, indent=1))
    for side in (base, ours):
        side.close()


if __name__ == "__main__":
    main()
