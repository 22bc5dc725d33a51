"""``make faults``: the failure table, measured on ``galerne serve``.

    python -m tests.bench.faults [--trials 20] [--model checkpoints/1b] [--only shard gateway]
    python -m tests.bench.faults --write

Every trial runs four streams at once, strikes after a seeded number of tokens, and compares the
tokens with those of a run without a fault. The pause is the longest wait for a token of any of the
four. Before the next trial the cluster must be whole again. With --write the table goes to
deploy/faults.md, and the rows of ``SHORT`` to the README.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

from tests.bench import strikes
from tests.bench.marked import FAULTS, README, write
from tests.bench.served import Served

SEEDS = (1, 2, 3, 4)
NUM_TOKENS = 120
CHANGE_TOKENS = 1900  # a change that starts a shard takes 6 to 9 s on two cores
CHANGES = (strikes.kill_within_a_change, strikes.kill_after_a_scale_up)
OUT = Path("bench-out/faults.json")

DEMO_TWICE = ("--shards", "4", "--replicas", "2", "--gateways", "2", "--max-model-len", "2048")
DEMO_ONCE = ("--shards", "4", "--max-model-len", "2048")


# name, flags, what is struck (several: in turn, or together), how
ROWS = {
    "shard killed, a replica lives": (DEMO_TWICE, [["shard-0"], ["shard-2"]], strikes.kill),
    "shard hangs (SIGSTOP), a replica lives": (
        DEMO_TWICE,
        [["shard-1"], ["shard-3"]],
        strikes.hang,
    ),
    "two shards killed together, r = 2, copies elsewhere": (
        DEMO_TWICE,
        [["shard-0", "shard-2"], ["shard-1", "shard-3"]],
        strikes.kill,
    ),
    "two neighbours killed together, r = 2: a quarter of the experts without a copy": (
        DEMO_TWICE,
        [["shard-0", "shard-1"], ["shard-2", "shard-3"]],
        strikes.kill,
    ),
    "gateway killed, another lives": (DEMO_TWICE, [["gateway-0"], ["gateway-1"]], strikes.kill),
    "gateway hangs (SIGSTOP), another lives": (
        DEMO_TWICE,
        [["gateway-0"], ["gateway-1"]],
        strikes.hang,
    ),
    "controller killed": (DEMO_TWICE, [["controller"]], strikes.kill),
    "shard killed during a topology change, r = 2": (
        DEMO_TWICE,
        [["a shard that stays"]],
        strikes.kill_within_a_change,
    ),
    "new shard killed right after the scale-up that brought it, r = 2": (
        DEMO_TWICE,
        [["the new shard"]],
        strikes.kill_after_a_scale_up,
    ),
    "shard killed, no replica": (DEMO_ONCE, [["shard-1"], ["shard-2"]], strikes.kill),
    "shard hangs (SIGSTOP), no replica": (DEMO_ONCE, [["shard-0"], ["shard-3"]], strikes.hang),
    "the only gateway killed": (DEMO_ONCE, [["gateway-0"]], strikes.kill),
}
SHORT = (
    "shard killed, a replica lives",
    "shard killed, no replica",
    "gateway killed, another lives",
    "gateway hangs (SIGSTOP), another lives",
    "the only gateway killed",
    "controller killed",
)


def num_tokens_of(strike):
    return CHANGE_TOKENS if strike in CHANGES else NUM_TOKENS


def prepare(served, strike):
    """The cluster is well, and can do what the fault needs."""
    served.wait_well()
    if strike is strikes.kill_after_a_scale_up and len(served.topology().shards) == 4:
        served.change(shards=3)
        served.wait_well()


def trial(served, want, parts, strike, after):
    """The longest wait, whether all streams were the same, and tokens lost."""
    ends, num_tokens = [], num_tokens_of(strike)

    def on_token(count):
        if count == after:
            ends.append(strike(served, parts))

    got = served.streams(SEEDS, num_tokens, on_token)
    over_s = time.monotonic()
    for end in ends:
        assert end() < over_s, "it struck when the streams were over"
    for stream in got:
        if stream.error:
            print("   ", stream.error)
    lost = sum(num_tokens - len(stream.token_ids) for stream in got)
    same = [stream.digest for stream in got] == want
    return max(stream.pause_s for stream in got), same, lost


def measure(served, name, victims, strike, trials):
    num_tokens = num_tokens_of(strike)
    want = [stream.digest for stream in served.streams(SEEDS, num_tokens)]
    assert [stream.digest for stream in served.streams(SEEDS, num_tokens)] == want
    pauses, same, lost = [], 0, 0
    for number in range(trials):
        prepare(served, strike)
        parts = victims[number % len(victims)]
        after = random.randrange(10, NUM_TOKENS - 30)
        pause, is_same, num_lost = trial(served, want, parts, strike, after)
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


def short_table(rows):
    """The README's: the rows of ``SHORT``, in its order."""
    by_name = {row["fault"]: row for row in rows}
    return table([by_name[name] for name in SHORT])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    parser.add_argument("--only", nargs="*", default=[], help="words of the rows to measure")
    parser.add_argument("--write", action="store_true", help="put the tables into the documents")
    arguments = parser.parse_args()
    if arguments.write and (arguments.model or arguments.only):
        parser.error("--write needs all rows, of the embedded model")
    model = ("--model", arguments.model) if arguments.model else ()
    chosen = {
        name: row
        for name, row in ROWS.items()
        if not arguments.only or any(word in name for word in arguments.only)
    }
    rows = []
    random.seed(0)
    for flags in (DEMO_TWICE, DEMO_ONCE):
        todo = {name: row for name, row in chosen.items() if row[0] == flags}
        if not todo:
            continue
        served = Served(*flags, *model)
        try:
            for name, (_, victims, strike) in todo.items():
                print(name, flush=True)
                rows.append(measure(served, name, victims, strike, arguments.trials))
        finally:
            served.close()
    OUT.parent.mkdir(exist_ok=True)
    out = OUT if not arguments.model else OUT.with_stem(f"faults-{Path(arguments.model).name}")
    out.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    if arguments.write:
        write(FAULTS, "faults", table(rows))
        write(README, "faults", short_table(rows))


if __name__ == "__main__":
    main()
