"""``make faults``: the failure table, measured on ``galerne serve``.

    python -m tests.bench.faults [--trials 20] [--model checkpoints/1b] [--only shard gateway]

Every trial runs four streams at once, strikes after a seeded number of tokens, and compares the
tokens with those of a run without a fault. The pause is the longest wait for a token of any of the
four. Before the next trial the cluster must be whole again.
"""

import argparse
import json
import os
import random
import signal
import statistics
import time
from pathlib import Path

from tests.bench.run import update_readme
from tests.bench.served import Served

SEEDS = (1, 2, 3, 4)
NUM_TOKENS = 120
HUNG_S = 3.0
OUT = Path("bench-out/faults.json")

DEMO_TWICE = ("--shards", "4", "--replicas", "2", "--gateways", "2", "--max-model-len", "2048")
DEMO_ONCE = ("--shards", "4", "--max-model-len", "2048")


def kill(served, *parts):
    for pid in [served.pid(part) for part in parts]:
        os.kill(pid, signal.SIGKILL)


def hang(served, part):
    """SIGSTOP; it is continued later, by ``recover``."""
    pid = served.pid(part)
    os.kill(pid, signal.SIGSTOP)
    return pid


# name, flags, what is struck (several: in turn, or together), how
ROWS = {
    "shard killed, a replica lives": (DEMO_TWICE, [["shard-0"], ["shard-2"]], "kill"),
    "shard hangs (SIGSTOP), a replica lives": (DEMO_TWICE, [["shard-1"], ["shard-3"]], "hang"),
    "two shards killed together, r = 2, copies elsewhere": (
        DEMO_TWICE,
        [["shard-0", "shard-2"], ["shard-1", "shard-3"]],
        "kill",
    ),
    "two neighbours killed together, r = 2: a quarter of the experts without a copy": (
        DEMO_TWICE,
        [["shard-0", "shard-1"], ["shard-2", "shard-3"]],
        "kill",
    ),
    "gateway killed, another lives": (DEMO_TWICE, [["gateway-0"], ["gateway-1"]], "kill"),
    "gateway hangs (SIGSTOP), another lives": (DEMO_TWICE, [["gateway-0"], ["gateway-1"]], "hang"),
    "controller killed": (DEMO_TWICE, [["controller"]], "kill"),
    "shard killed, no replica": (DEMO_ONCE, [["shard-1"], ["shard-2"]], "kill"),
    "shard hangs (SIGSTOP), no replica": (DEMO_ONCE, [["shard-0"], ["shard-3"]], "hang"),
    "the only gateway killed": (DEMO_ONCE, [["gateway-0"]], "kill"),
}


def controller_pid(served):
    """Of our controller, not of Serve's."""
    for process in served.family():
        if process.name().startswith("ray::Controller"):
            return process.pid
    raise SystemExit("no controller")


def strike(served, parts, how):
    """Returns what ends the fault."""
    if parts == ["controller"]:
        os.kill(controller_pid(served), signal.SIGKILL)
        return lambda: None
    if how == "kill":
        kill(served, *parts)
        return lambda: None
    pid = hang(served, parts[0])
    struck = time.monotonic()

    def end():
        time.sleep(max(0.0, struck + HUNG_S - time.monotonic()))
        os.kill(pid, signal.SIGCONT)

    return end


def trial(served, want, parts, how, after):
    """The longest wait, whether all streams were the same, and tokens lost."""
    ends = []

    def on_token(count):
        if count == after:
            ends.append(strike(served, parts, how))

    got = served.streams(SEEDS, NUM_TOKENS, on_token)
    for end in ends:
        end()
    for stream in got:
        if stream.error:
            print("   ", stream.error)
    lost = sum(NUM_TOKENS - len(stream.token_ids) for stream in got)
    same = [stream.digest for stream in got] == want
    return max(stream.pause_s for stream in got), same, lost


def measure(served, name, victims, how, trials, rng):
    want = [stream.digest for stream in served.streams(SEEDS, NUM_TOKENS)]
    assert [stream.digest for stream in served.streams(SEEDS, NUM_TOKENS)] == want
    pauses, same, lost = [], 0, 0
    for number in range(trials):
        served.wait_well()
        parts = victims[number % len(victims)]
        pause, is_same, num_lost = trial(
            served, want, parts, how, rng.randrange(10, NUM_TOKENS - 30)
        )
        pauses.append(pause)
        same, lost = same + is_same, lost + num_lost
        print(
            f"  {number + 1:3} {parts} pause {pause:.2f} s same {is_same} lost {num_lost}",
            flush=True,
        )
    quantiles = statistics.quantiles(pauses, n=100, method="inclusive")
    row = {
        "fault": name,
        "trials": trials,
        "p50_s": round(statistics.median(pauses), 3),
        "p99_s": round(quantiles[98], 3),
        "max_s": round(max(pauses), 3),
        "tokens_lost": lost,
        "identical": f"{same}/{trials}",
        "sha256": want[0][:16],
    }
    print(json.dumps(row), flush=True)
    return row


def table(rows):
    lines = [
        "| fault | trials | pause p50 | p99 | tokens lost | streams identical |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = (row["fault"], str(row["trials"]), f"{row['p50_s']:.2f} s", f"{row['p99_s']:.2f} s")
        lines.append("| " + " | ".join([*cells, str(row["tokens_lost"]), row["identical"]]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    parser.add_argument("--only", nargs="*", default=[], help="words of the rows to measure")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    arguments = parser.parse_args()
    model = ("--model", arguments.model) if arguments.model else ()
    chosen = {
        name: row
        for name, row in ROWS.items()
        if not arguments.only or any(word in name for word in arguments.only)
    }
    rows, rng = [], random.Random(0)
    for flags in (DEMO_TWICE, DEMO_ONCE):
        todo = {name: row for name, row in chosen.items() if row[0] == flags}
        if not todo:
            continue
        served = Served(*flags, *model)
        try:
            for name, (_, victims, how) in todo.items():
                print(name, flush=True)
                rows.append(measure(served, name, victims, how, arguments.trials, rng))
        finally:
            served.close()
    OUT.parent.mkdir(exist_ok=True)
    out = OUT if not arguments.model else OUT.with_stem(f"faults-{Path(arguments.model).name}")
    out.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    if arguments.readme:
        update_readme(table(rows), "faults")


if __name__ == "__main__":
    main()
