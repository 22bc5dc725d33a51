"""``make switching``: open-loop load while the topology changes every ten seconds.

    python -m tests.bench.switching [--minutes 10] [--rate 2] [--model checkpoints/1b]

Requests come at seeded times, whatever has become of the earlier ones. Each is compared with the
answer of the same request to the topology that stands still. Waits between tokens are counted apart
for the seconds in which a change goes on.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from cluster.simulator.workload import Arrival, Lengths, poisson
from tests.bench.load_result import spread
from tests.bench.open_load import LoadProcess, Plan, run_load
from tests.bench.served import Served

FLAGS = ("--shards", "3", "--max-model-len", "2048")
LENGTHS = Lengths(prompt_mean=16, output_mean=64)
NUM_DISTINCT = 24  # requests
SAMPLING = {"seed": 1, "num_distinct": NUM_DISTINCT, "temperature": 1.0}
WISHES = (
    {"mode": "latency"},
    {"mode": "throughput", "shards": 2},
    {"mode": "throughput", "shards": 3, "replicas": 2},
    {"mode": "latency", "shards": 2},
)
OUT = Path("bench-out/switching.json")


def answers_standing_still(served):
    """Digest of every distinct request's tokens."""
    sizes = (int(LENGTHS.prompt_mean), int(LENGTHS.output_mean))
    calm = [Arrival(0.5 * number, *sizes) for number in range(NUM_DISTINCT)]
    result = run_load(served.grpc, Plan(arrivals=calm, **SAMPLING))
    assert not result.failed, result.failed[0].error
    return [answer.digest for answer in result.answers]


def waits_of(result):
    """(when, since 1970; seconds) of every wait between two tokens of a request."""
    for answer in result.answers:
        times_s = answer.token_times_s[1:]
        for at_s, wait_s in zip(times_s, answer.gaps_s, strict=True):
            yield result.began_unix_s + at_s, wait_s


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between changes")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    served = Served(*FLAGS, *(("--model", arguments.model) if arguments.model else ()))
    try:
        want = answers_standing_still(served)
        arrivals = list(poisson(arguments.rate, LENGTHS, 60 * arguments.minutes, seed=1))
        load = LoadProcess(served.grpc, Plan(arrivals=arrivals, **SAMPLING))
        started = time.time()
        end = started + 60 * arguments.minutes
        changes, number = [], 0
        while time.time() < end - arguments.every:
            time.sleep(max(0.0, started + arguments.every * (number + 1) - time.time()))
            begun = time.time()
            served.change(**WISHES[number % len(WISHES)])
            changes.append((begun, time.time()))
            number += 1
            print(
                f"{number:3} {WISHES[(number - 1) % 4]} {changes[-1][1] - begun:.1f} s", flush=True
            )
        loaded = load.wait()
    finally:
        served.close()
    waits = list(waits_of(loaded))
    during = spread([s for at, s in waits if any(a <= at <= b for a, b in changes)])
    beside = spread([s for at, s in waits if not any(a <= at <= b for a, b in changes)])
    good = [answer for answer in loaded.answers if not answer.error]
    result = {
        "minutes": arguments.minutes,
        "requests": len(loaded.answers),
        "failed": len(loaded.failed),
        "different": sum(answer.digest != want[answer.number % NUM_DISTINCT] for answer in good),
        "changes": len(changes),
        "change_s_median": round(statistics.median(b - a for a, b in changes), 2),
        "tokens": len(waits),
        "p50_ms_beside": round(1e3 * beside["p50"], 2),
        "p99_ms_beside": round(1e3 * beside["p99"], 2),
        "p50_ms_during": round(1e3 * during["p50"], 2),
        "p99_ms_during": round(1e3 * during["p99"], 2),
        "longest_ms": round(1e3 * max(beside["max"], during["max"]), 1),
        "errors": [answer.error for answer in loaded.failed[:5]],
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
