"""``make bench``: our engine and transformers' generate on one checkpoint, interleaved, one run.

    python -m tests.bench.run [--checkpoint DIR] [--rounds 5] [--readme]

Without a checkpoint the 1b preset is written to checkpoints/1b first. Every engine has a process of
its own, idle while another is measured; each round measures all of them in turn. Decode speed is
(streams * (tokens - 1)) / (time of `tokens` tokens - time of 1 token). The result goes to
bench-out/bench.json and is printed as a table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORES = os.cpu_count() or 1
NUM_SHARDS = 4
WORKLOADS = {
    "1 stream": {"streams": 1, "prompt": 64, "tokens": 64},
    "16 streams": {"streams": 16, "prompt": 64, "tokens": 32},
}
ENGINES = ("local", "grpc", "transformers")


class Process:
    """A worker or shard: one JSON line out for one line in."""

    def __init__(self, module, *args, threads):
        path = os.pathsep.join(str(ROOT / p) for p in (".", "proto", "tests"))
        env = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *map(str, args)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said = self._read()

    def ask(self, command=None):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a bench process ended with {self._process.wait()}")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)


def one_b():
    path = ROOT / "checkpoints" / "1b"
    if not (path / "config.json").exists():
        from shards.checkpoint.presets import preset
        from shards.checkpoint.random_checkpoint import write_random_checkpoint

        write_random_checkpoint(path, preset("1b"), seed=4)
    return path


def measure(worker, workload, seed, shards):
    """Decode tokens per second of one engine, and where the time went."""
    first = worker.ask(workload | {"tokens": 1, "seed": seed})
    before = [s.ask()["compute_seconds"] for s in shards]
    whole = worker.ask(workload | {"seed": seed})
    after = [s.ask()["compute_seconds"] for s in shards]
    decoded = workload["streams"] * (workload["tokens"] - 1)
    speed = decoded / max(whole["seconds"] - first["seconds"], 1e-9)
    return {
        "tok_s": speed,
        "first_s": first["seconds"],
        "whole": whole,
        "shard_seconds": sum(after) - sum(before),
    }


def memory_by_shards(path):
    """Residency and bytes read of one shard, at 1, 2, 4 and 8 shards."""
    rows = []
    for count in (1, 2, 4, 8):
        shard = Process("tests.bench.shard", path, 0, count, threads=1)
        rows.append({"shards": count, **shard.said})
        shard.close()
    return rows


def breakdown(results, num_layers):
    """Milliseconds per step and layer of the median round, by part."""
    middle = sorted(results, key=lambda r: r["tok_s"])[len(results) // 2]
    whole = middle["whole"]
    steps = whole["steps"]
    parts = {k: v * 1e3 / steps for k, v in whole["parts"].items()}
    engine = {k: v * 1e3 / steps for k, v in whole["engine"].items()}
    outside = {"embed", "head"}
    per_layer = {k: v / num_layers for k, v in parts.items() if k not in outside}
    return {
        "steps": steps,
        "step_ms": whole["seconds"] * 1e3 / steps,
        "per_layer_ms": per_layer,
        "shard_compute_ms_per_layer": middle["shard_seconds"] * 1e3 / steps / num_layers,
        "per_step_ms": {k: v for k, v in parts.items() if k in outside}
        | {k: v for k, v in engine.items() if k != "model"}
        | {"python and rest": engine["model"] - sum(parts.values())},
    }


def summary(speeds):
    return f"{statistics.median(speeds):7.1f} [{min(speeds):.1f}-{max(speeds):.1f}]"


def print_report(report):
    print(f"checkpoint {report['checkpoint']}, {report['machine']}, {report['rounds']} rounds")
    for workload, engines in report["speeds"].items():
        base = statistics.median(engines["transformers"])
        for engine, speeds in engines.items():
            ratio = statistics.median(speeds) / base
            print(f"{workload:11} {engine:13} {summary(speeds)} tok/s  x{ratio:.2f}")
    for name, parts in report["breakdown"].items():
        print(f"\n{name}: {parts['steps']} steps of {parts['step_ms']:.2f} ms")
        for part, ms in sorted(parts["per_layer_ms"].items(), key=lambda p: -p[1]):
            print(f"   {part:18} {ms:8.3f} ms a layer")
        if parts["shard_compute_ms_per_layer"]:
            spent = parts["shard_compute_ms_per_layer"]
            print(f"   (shards computed   {spent:8.3f} ms a layer, summed over them)")
        for part, ms in sorted(parts["per_step_ms"].items(), key=lambda p: -p[1]):
            print(f"   {part:18} {ms:8.3f} ms a step")
    print(
        "\nshards  experts  weights MiB  read MiB  resident after load MiB (mapped file / private)"
    )
    for row in report["memory"]:
        mib = {k: row[k] / 2**20 for k in ("resident_bytes", "bytes_read")}
        rss, mapped = (row["after"][k] / 2**20 for k in ("rss", "file"))
        start = row["before"]["rss"] / 2**20
        print(
            f"{row['shards']:6}  {row['experts']:7}  {mib['resident_bytes']:11.1f}"
            f"  {mib['bytes_read']:8.1f}  {rss:9.1f} ({mapped:.1f} / {rss - mapped:.1f};"
            f" {start:.1f} before loading)"
        )


def markdown(report):
    """The README's table."""
    head = (
        f"`make bench`: {report['checkpoint']} checkpoint (0.64 B weights, bf16), "
        f"{report['machine']}, median [min-max] of {report['rounds']} interleaved rounds, "
        "prompt 64, decode tokens/s:"
    )
    rows = ["| workload | engine | tokens/s | against transformers |", "|---|---|---:|---:|"]
    names = {
        "local": "galerne, experts in the gateway",
        "grpc": f"galerne, {NUM_SHARDS} gRPC shards on the same cores",
        "transformers": "transformers 5.23 generate",
    }
    for workload, engines in report["speeds"].items():
        base = statistics.median(engines["transformers"])
        for engine, speeds in engines.items():
            ratio = statistics.median(speeds) / base
            rows.append(f"| {workload} | {names[engine]} | {summary(speeds)} | {ratio:.2f}x |")
    parts = ["| ms a layer |", "|---|"]
    for name in report["breakdown"]:
        parts[0] += f" {name} |"
        parts[1] += "---:|"
    keys = list(next(iter(report["breakdown"].values()))["per_layer_ms"])
    for key in keys:
        cells = (f"{b['per_layer_ms'].get(key, 0.0):.2f}" for b in report["breakdown"].values())
        parts.append(f"| {key} | " + " | ".join(cells) + " |")
    memory = [
        "| shards | experts of shard 0 | its weights | bytes read | resident (of it mapped file) |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in report["memory"]:
        mib = [row["resident_bytes"], row["bytes_read"], row["after"]["rss"], row["after"]["file"]]
        weights, read, rss, mapped = (f"{b / 2**20:.0f} MiB" for b in mib)
        memory.append(
            f"| {row['shards']} | {row['experts']} | {weights} | {read} | {rss} ({mapped}) |"
        )
    return "\n\n".join([head, "\n".join(rows), "\n".join(parts), "\n".join(memory)])


def update_readme(report):
    """Put the table between the README's marks."""
    readme = ROOT / "README.md"
    before, start, rest = readme.read_text().partition("<!-- bench -->")
    _, end, after = rest.partition("<!-- /bench -->")
    readme.write_text(f"{before}{start}\n{markdown(report)}\n{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    args = parser.parse_args()
    path = args.checkpoint or one_b()
    num_layers = json.loads((path / "config.json").read_text())["num_hidden_layers"]
    memory = memory_by_shards(path)
    shards = [
        Process("tests.bench.shard", path, i, NUM_SHARDS, threads=1) for i in range(NUM_SHARDS)
    ]
    addresses = [s.said["address"] for s in shards]
    workers = {
        "local": Process("tests.bench.worker", "local", path, threads=CORES),
        "grpc": Process("tests.bench.worker", "grpc", path, *addresses, threads=1),
        "transformers": Process("tests.bench.worker", "transformers", path, threads=CORES),
    }
    results = {w: {e: [] for e in ENGINES} for w in WORKLOADS}
    for seed in range(args.rounds + 1):
        for name, workload in WORKLOADS.items():
            for engine in ENGINES:
                used = shards if engine == "grpc" else []
                result = measure(workers[engine], workload, seed, used)
                if seed:  # the first round warms up
                    results[name][engine].append(result)
    for process in (*workers.values(), *shards):
        process.close()
    report = {
        "checkpoint": path.name,
        "machine": f"{platform.machine()}, {CORES} cores",
        "rounds": args.rounds,
        "speeds": {
            w: {e: [r["tok_s"] for r in rs] for e, rs in by.items()} for w, by in results.items()
        },
        "breakdown": {
            f"{e}, {w}": breakdown(results[w][e], num_layers)
            for w in WORKLOADS
            for e in ("local", "grpc")
        },
        "memory": memory,
    }
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    (out / "bench.json").write_text(json.dumps(report, indent=1))
    print_report(report)
    if args.readme:
        update_readme(report)


if __name__ == "__main__":
    main()
