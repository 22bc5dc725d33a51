"""``make bench-claim``: the makers' claim, scaled: our 1b against a dense model of 3.7 times its
active weights, served by llama.cpp, interleaved, in one run.

    python -m tests.bench.claim [--rounds 3] [--requests 32]

Latency: the time of one request of 1024 tokens and 128 new ones. Throughput: requests per second of
many such requests at once. Claimed for the real models: 40 % less time, 3 times the requests.
"""

import argparse
import json
import statistics

from tests.bench.engines import CORES, OURS, ROOT, WIDTHS, Process
from tests.bench.peers import dense, llama_cpp
from tests.bench.run import one_b

PROMPT, NEW = 1024, 128


def dense_seconds(path, requests):
    """Seconds of so many requests together; prompts first, then all decode."""
    speeds = llama_cpp.decode_speed(path, requests, PROMPT, NEW, CORES)
    return requests * (PROMPT / speeds["prefill_tok_s"] + NEW / speeds["tok_s"])


def our_seconds(worker, requests, seed):
    command = {"streams": requests, "prompt": PROMPT, "tokens": NEW, "seed": seed}
    return worker.ask(command)["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32, help="at once, for throughput")
    args = parser.parse_args()
    sparse_path = one_b()
    dense_path = dense.write(ROOT / "checkpoints" / "dense")
    llama_cpp.build()
    ggufs = {width: llama_cpp.gguf(dense_path, width) for width in WIDTHS}
    workers = {}
    for width, (experts, held) in WIDTHS.items():
        env = OURS | {"GALERNE_EXPERTS": experts, "GALERNE_DENSE": held, "GALERNE_SPIN_US": "200"}
        env["GALERNE_BLOCKS"] = str(args.requests * (PROMPT + NEW + 32) // 16)
        workers[width] = Process("tests.bench.worker", "local", sparse_path, threads=CORES, **env)
    seconds = {}
    for seed in range(args.rounds + 1):
        for requests in (1, args.requests):
            for width in WIDTHS:
                ours = our_seconds(workers[width], requests, seed)
                peers = dense_seconds(ggufs[width], requests) if seed else 0.0
                if seed:  # the first round warms up
                    seconds.setdefault((requests, width, "ours"), []).append(ours)
                    seconds.setdefault((requests, width, "dense"), []).append(peers)
    for worker in workers.values():
        worker.close()
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    rows = {"/".join(map(str, key)): values for key, values in seconds.items()}
    (out / "claim.json").write_text(json.dumps(rows, indent=1))
    print_table(seconds, args.requests)


def print_table(seconds, requests):
    """Medians, and ratios against the dense model of the same width and of the fastest."""
    median = {key: statistics.median(values) for key, values in seconds.items()}
    for count, what in ((1, "one request, s"), (requests, f"{requests} requests, s")):
        fastest = min(median[count, width, "dense"] for width in WIDTHS)
        print(f"| {what} | MoE, galerne | dense, llama.cpp | same width | fastest dense |")
        print("|---|---:|---:|---:|---:|")
        for width in WIDTHS:
            ours, theirs = median[count, width, "ours"], median[count, width, "dense"]
            if count == 1:
                ratios = (f"{ours / base - 1:+.0%} time" for base in (theirs, fastest))
            else:
                ratios = (f"{base / ours:.2f}x requests/s" for base in (theirs, fastest))
            print(f"| {width} | {ours:.2f} | {theirs:.2f} | {' | '.join(ratios)} |")
        print()


if __name__ == "__main__":
    main()
