"""``make bench-tracing``: what traces cost, in interleaved rounds: none, some and all of them kept.

    python -m tests.bench.tracing [--rounds 20] [--kinds local shm]

Each side is a frontend over its gateway in a process of its own, with shards that all sides share;
traces go to a file. All stay loaded, the others are idle while one runs, and who is first goes
round. Whole requests through the frontend, prompt and answer. Prints the median of tokens per
second over those of the same round without traces, and its 95 % interval (by the sign test).
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.against import interval
from tests.bench.engines import OURS, ROOT, Process
from tests.bench.run import one_b

OFF = "off"
RATIOS = {OFF: None, "1 % sampled": 0.01, "all sampled": 1.0}
WORKLOADS = {
    "1 stream": {"streams": 1, "prompt": 64, "tokens": 192},
    "16 streams": {"streams": 16, "prompt": 64, "tokens": 64},
}
NUM_SHARDS = 2
_NOT_SLOW_S = 60.0  # only what is sampled is kept


# -- one side -----------------------------------------------------------------------------------


async def serve(ratio, directory, kind, path, addresses):
    """Answer workloads on stdin with their seconds, and the spans that were written so far."""
    from helpers.api_servers import make_frontend
    from router.gateway.pool import GatewayPool
    from router.tracing.create import create_frontend_tracer
    from router.tracing.settings import TracingSettings
    from tests.bench.path_worker import FixedRoster, agree_on_profile, start_gateway

    agree_on_profile()
    told = None
    if ratio is not None:
        told = TracingSettings(
            endpoint=f"file://{directory}", sample_ratio=ratio, slow_s=_NOT_SLOW_S
        )
    host, token = start_gateway(kind, path, addresses, tracing=told)
    pool = GatewayPool(FixedRoster(host.address), token)
    await pool.start(30.0)
    frontend = make_frontend(pool, tracer=create_frontend_tracer(told))
    print(json.dumps({"ready": True}), flush=True)
    count = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        count += 1
        seconds = await run(frontend, host.facts.vocab_size, json.loads(line), count)
        print(json.dumps({"seconds": seconds, "spans": num_spans(directory)}), flush=True)
    os._exit(0)


def num_spans(directory):
    """Lines of all files there."""
    files = [file for file in Path(directory).rglob("*") if file.is_file()]
    return sum(len(file.read_bytes().splitlines()) for file in files)


async def run(frontend, vocab_size, workload, count):
    """Seconds of all requests of a workload at once."""
    from router.api.events import TokensDelta
    from router.api.inputs import GenerateInput
    from tests.bench.worker import prompts

    async def one(prompt):
        sampling = {"max_tokens": workload["tokens"], "ignore_eos": True, "temperature": 0.0}
        asked = GenerateInput(prompt=prompt, sampling=sampling, cache_salt=str(count))
        tokens = 0
        async for event in frontend.generate(asked):
            if isinstance(event, TokensDelta):
                tokens += len(event.token_ids)
        assert tokens == workload["tokens"]

    batch = prompts(workload, vocab_size)
    started_s = time.perf_counter()
    await asyncio.gather(*map(one, batch))
    return time.perf_counter() - started_s


# -- the measurement ----------------------------------------------------------------------------


def measure(kind, rounds, path, directory):
    """Ratios to the side without traces by workload and side, and spans of each side."""
    shards = []
    if kind != "local":
        shards = [
            Process("tests.bench.shard", path, i, NUM_SHARDS, threads=1, **OURS)
            for i in range(NUM_SHARDS)
        ]
    addresses = [shard.said["address"] for shard in shards]
    sides = {}
    for name, ratio in RATIOS.items():
        place = Path(directory, f"{kind}-{name}".replace(" ", "-"))
        place.mkdir()
        told = "--side", json.dumps([ratio, str(place), kind, str(path), addresses])
        sides[name] = Process("tests.bench.tracing", *told, threads=1 if shards else 2, **OURS)
    speeds, spans = {}, {}
    for number in range(rounds + 1):
        for workload, command in WORKLOADS.items():
            names = list(sides)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                said = sides[name].ask(command | {"seed": number})
                tokens = command["streams"] * command["tokens"]
                if number:  # the first warms up
                    speeds.setdefault((workload, name), []).append(tokens / said["seconds"])
                spans[name] = said["spans"]
    for process in (*sides.values(), *shards):
        process.close()
    return speeds, spans


def rows_of(kind, speeds, spans):
    """What is printed: a row for every workload and side that traces."""
    for (workload, name), traced in speeds.items():
        if name != OFF:
            plain = speeds[workload, OFF]
            ratios = [a / b for a, b in zip(traced, plain, strict=True)]
            low, high = interval(ratios)
            yield {
                "kind": kind,
                "workload": workload,
                "side": name,
                "rounds": len(ratios),
                "median_ratio": round(statistics.median(ratios), 4),
                "interval": [round(low, 4), round(high, 4)],
                "off_tok_s": round(statistics.median(plain), 1),
                "spans": spans[name],
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", default=["shm"])
    parser.add_argument("--side", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        asyncio.run(serve(*arguments.side))
        return
    path, rows = one_b(), []
    with tempfile.TemporaryDirectory(prefix="galerne-traces-") as directory:
        for kind in arguments.kinds:
            for row in rows_of(kind, *measure(kind, arguments.rounds, path, directory)):
                rows.append(row)
                print(json.dumps(row), flush=True)
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    (out / "tracing.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
