"""The bench's result as text and as tables of documents."""

import statistics

NAMES = {
    "local bf16": "galerne, experts in the gateway",
    "local int8": "galerne, int8 experts and dense",
    "local int4": "galerne, int4 experts and dense",
    "shm bf16": "galerne, 4 shm shards on the same cores",
    "grpc bf16": "galerne, 4 gRPC shards on the same cores",
    "transformers bf16": "transformers 5.23 generate",
    "llama.cpp bf16": "llama.cpp BF16",
    "llama.cpp int8": "llama.cpp Q8_0",
    "llama.cpp int4": "llama.cpp Q4_K",
}
OURS = ("local", "shm", "grpc")
OUTSIDE = ("embed", "head")  # parts of a step and not of a layer
SHORT = {"bf16": "local bf16", "int8": "local int8", "int4": "local int4"}  # the README's columns


def breakdown(results, num_layers):
    """Milliseconds per decode step of the median round: by part and layer, and the rest."""
    middle = sorted(results, key=lambda r: r["tok_s"])[len(results) // 2]
    first, whole = middle["first"], middle["whole"]
    steps = whole["steps"] - first["steps"]

    def difference(kind):
        return {k: (v - first[kind].get(k, 0.0)) * 1e3 / steps for k, v in whole[kind].items()}

    parts, engine = difference("parts"), difference("engine")
    outside = {k: parts.pop(k) for k in OUTSIDE}
    rest = engine.pop("model") - sum(parts.values()) - sum(outside.values())
    return {
        "steps": steps,
        "step_ms": (whole["seconds"] - first["seconds"]) * 1e3 / steps,
        "per_layer_ms": {k: v / num_layers for k, v in parts.items()},
        "shard_compute_ms_per_layer": middle["shard_seconds"] * 1e3 / steps / num_layers,
        "per_step_ms": outside | engine | {"Python and rest": rest},
    }


def best_peer(speeds, width):
    """Median of the fastest peer in this width; None if there is none."""
    found = [
        statistics.median(values)
        for engine, values in speeds.items()
        if engine.endswith(width) and not engine.startswith(OURS)
    ]
    return max(found, default=None)


def lines(report):
    """(workload, engine, speed, ratio to the best peer of the same width) as text."""
    for workload, speeds in report["speeds"].items():
        for engine, values in speeds.items():
            peer = best_peer(speeds, engine.rpartition(" ")[2])
            median = statistics.median(values)
            ratio = "" if peer is None else f"{median / peer:.2f}x"
            text = f"{median:.0f} [{min(values):.0f}-{max(values):.0f}]"
            yield workload, NAMES[engine], text, ratio


def print_report(report):
    print(f"checkpoint {report['checkpoint']}, {report['machine']}, {report['rounds']} rounds")
    for workload, engine, speed, ratio in lines(report):
        print(f"{workload:13} {engine:42} {speed:>24} tok/s  {ratio}")
    for name, parts in report["breakdown"].items():
        print(f"\n{name}: {parts['steps']} steps of {parts['step_ms']:.2f} ms")
        for part, ms in sorted(parts["per_layer_ms"].items(), key=lambda p: -p[1]):
            print(f"   {part:18} {ms:8.3f} ms a layer")
        if parts["shard_compute_ms_per_layer"]:
            spent = parts["shard_compute_ms_per_layer"]
            print(f"   (shards computed   {spent:8.3f} ms a layer, summed over them)")
        for part, ms in sorted(parts["per_step_ms"].items(), key=lambda p: -p[1]):
            print(f"   {part:18} {ms:8.3f} ms a step")
    print("\nof what the machine allows:", *report["roofline"], sep="\n   ")
    print("\npeak resident memory:", memory_text(report))
    print("read bandwidth in every round, GB/s:", report["bandwidth"])


def memory_text(report):
    found = report["peak_bytes"].items()
    return ", ".join(f"{NAMES[engine]} {size / 2**30:.2f} GiB" for engine, size in found)


def markdown(report):
    """The tables of deploy/numbers.md."""
    gb_s = report["bandwidth"]
    head = (
        f"`make bench`: {report['checkpoint']} checkpoint (0.64 B weights), {report['machine']}, "
        f"median [min-max] tokens/s of {report['rounds']} interleaved rounds, prompt 64 where not "
        f"said. Memory read at {min(gb_s):.0f} to {max(gb_s):.0f} GB/s during the rounds (a shared "
        "machine):"
    )
    rows = ["| workload | engine | tokens/s | against the best peer of its width |"]
    rows += ["|---|---|---:|---:|"]
    rows += [f"| {' | '.join(line)} |" for line in lines(report)]
    names = list(report["breakdown"])
    parts = [f"| ms | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for kind, unit in (("per_layer_ms", "a layer"), ("per_step_ms", "a step")):
        keys = dict.fromkeys(k for b in report["breakdown"].values() for k in b[kind])
        for key in keys:
            cells = (b[kind].get(key) for b in report["breakdown"].values())
            shown = ("" if ms is None else f"{ms:.2f}" for ms in cells)
            parts.append(f"| {key}, {unit} | {' | '.join(shown)} |")
    memory = f"Peak resident memory: {memory_text(report)}."
    limits = "Of the roof that memory and arithmetic set (`bench-out/roofline.png`):\n\n"
    limits += "\n".join(f"- {limit}" for limit in report["roofline"])
    return "\n\n".join([head, "\n".join(rows), "\n".join(parts), limits, memory])


def short_table(rows):
    """The README's table, of ``lines``: experts in the gateway, a column for each format."""
    cells = {}
    for workload, engine, speed, ratio in rows:
        cells.setdefault(workload, {})[engine] = f"{speed.split()[0]} ({ratio})"
    table = [f"| tokens/s | {' | '.join(SHORT)} |", f"|---|{'---:|' * len(SHORT)}"]
    for workload, speeds in cells.items():
        shown = (speeds[NAMES[engine]] for engine in SHORT.values())
        table.append(f"| {workload} | {' | '.join(shown)} |")
    return "\n".join(table)
