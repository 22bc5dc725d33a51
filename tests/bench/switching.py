"""``make switching``: open-loop load while the topology changes every ten seconds.

    python -m tests.bench.switching [--minutes 10] [--rate 2] [--model checkpoints/1b]

Requests come at seeded times, whatever has become of the earlier ones. Each is compared with the
answer of the same request to the topology that stands still. Waits between tokens are counted apart
for the seconds in which a change goes on.
"""

import argparse
import json
import random
import statistics
import threading
import time
from pathlib import Path

from tests.bench.served import Served

FLAGS = ("--shards", "3", "--max-model-len", "2048")
NUM_TOKENS = 64
NUM_DISTINCT = 24  # requests
WISHES = (
    {"mode": "latency"},
    {"mode": "throughput", "shards": 2},
    {"mode": "throughput", "shards": 3, "replicas": 2},
    {"mode": "latency", "shards": 2},
)
OUT = Path("bench-out/switching.json")


class Load:
    """Requests at random times, each in a thread of its own."""

    def __init__(self, served, rate, want):
        self._served, self._rate, self._want = served, rate, want
        self._lock = threading.Lock()
        self.failed, self.different, self.done, self.sent = [], 0, 0, 0
        self.waits = []  # (when, seconds)

    def run(self, until_s):
        rng, threads = random.Random(1), []
        due = time.monotonic()
        while due < until_s:
            time.sleep(max(0.0, due - time.monotonic()))
            thread = threading.Thread(target=self._one, args=(self.sent % NUM_DISTINCT,))
            thread.start()
            threads.append(thread)
            self.sent += 1
            due += rng.expovariate(self._rate)
        for thread in threads:
            thread.join(300)

    def _one(self, seed):
        stream = self._served.stream(seed, NUM_TOKENS)
        end = time.monotonic()
        with self._lock:
            self.done += 1
            if stream.error:
                self.failed.append(stream.error)
            elif stream.digest != self._want[seed]:
                self.different += 1
            for wait in reversed(stream.waits_s):
                self.waits.append((end, wait))
                end -= wait


def p99(values):
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between changes")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    served = Served(*FLAGS, *(("--model", arguments.model) if arguments.model else ()))
    try:
        want = [served.stream(seed, NUM_TOKENS).digest for seed in range(NUM_DISTINCT)]
        load = Load(served, arguments.rate, want)
        started = time.monotonic()
        end = started + 60 * arguments.minutes
        loader = threading.Thread(target=load.run, args=(end,))
        loader.start()
        changes, number = [], 0
        while time.monotonic() < end - arguments.every:
            time.sleep(max(0.0, started + arguments.every * (number + 1) - time.monotonic()))
            begun = time.monotonic()
            served.change(**WISHES[number % len(WISHES)])
            changes.append((begun, time.monotonic()))
            number += 1
            print(
                f"{number:3} {WISHES[(number - 1) % 4]} {changes[-1][1] - begun:.1f} s", flush=True
            )
        loader.join()
    finally:
        served.close()
    during = [s for at, s in load.waits if any(a <= at <= b for a, b in changes)]
    beside = [s for at, s in load.waits if not any(a <= at <= b for a, b in changes)]
    result = {
        "minutes": arguments.minutes,
        "requests": load.sent,
        "failed": len(load.failed),
        "different": load.different,
        "changes": len(changes),
        "change_s_median": round(statistics.median(b - a for a, b in changes), 2),
        "tokens": len(load.waits),
        "p50_ms_beside": round(1e3 * statistics.median(beside), 2),
        "p99_ms_beside": round(1e3 * p99(beside), 2),
        "p50_ms_during": round(1e3 * statistics.median(during), 2),
        "p99_ms_during": round(1e3 * p99(during), 2),
        "longest_ms": round(1e3 * max(s for _, s in load.waits), 1),
        "errors": load.failed[:5],
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
