"""``make bench-http``: generated tokens per second over HTTP, ours and llama-server, interleaved.

    python -m tests.bench.http [--rounds 3] [--widths bf16 int4]

Both serve the 1b checkpoint; requests of 64 random tokens and 64 new ones in a closed loop. The
clients run on the same cores as the servers, for both alike.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import time

import httpx

from helpers.serve_process import ServeProcess
from tests.bench.engines import CORES, ROOT, WIDTHS
from tests.bench.peers import llama_cpp
from tests.bench.run import one_b

CONCURRENCY = (1, 16, 64)
PROMPT, NEW = 64, 64


class Galerne:
    """``galerne serve``, experts in the gateway."""

    name = "galerne"

    def __init__(self, path, width):
        experts, dense = WIDTHS[width]
        flags = ["--model", str(path), "--transport", "local", "--max-num-seqs", "64"]
        flags += ["--experts", experts, "--dense", dense, "--max-model-len", "2048"]
        self._server = ServeProcess(*flags, "--http-port", "0", "--grpc-port", "0")
        self.url = f"http://{self._server.http}/v1/completions"

    def body(self, prompt):
        fields = {"model": self._server.model, "temperature": 0, "ignore_eos": True}
        return fields | {"prompt": prompt, "max_tokens": NEW}

    def count(self, reply):
        return reply["usage"]["completion_tokens"]

    def close(self):
        self._server.stop()


class LlamaServer:
    """llama.cpp's own server."""

    name = "llama-server"

    def __init__(self, path, width):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        slots = max(CONCURRENCY)
        options = ["-m", llama_cpp.gguf(path, width), "-t", CORES, "-np", slots, "--port", port]
        options += ["-c", slots * 2 * (PROMPT + NEW), "--no-kv-unified", "--no-webui"]
        self._process = subprocess.Popen(
            [llama_cpp.BIN / "llama-server", *map(str, options)],
            env=os.environ | {"LD_LIBRARY_PATH": str(llama_cpp.BIN)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{port}/completion"
        self._wait(f"http://127.0.0.1:{port}/health")

    def _wait(self, url, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if httpx.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise SystemExit("llama-server did not start")

    def body(self, prompt):
        fields = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return fields | {"prompt": prompt, "n_predict": NEW}

    def count(self, reply):
        return reply["tokens_predicted"]

    def close(self):
        self._process.terminate()
        self._process.wait(30)


async def load(server, concurrency, seed):
    """Generated tokens per second, and the median seconds of a request."""
    rng = random.Random(seed)
    limits = httpx.Limits(max_connections=concurrency)
    latencies, tokens = [], 0
    bodies = [
        server.body([rng.randrange(1000, 8192) for _ in range(PROMPT)])
        for _ in range(max(6, 2 * concurrency))
    ]
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:

        async def work():
            nonlocal tokens
            while bodies:
                body = bodies.pop()
                started = time.perf_counter()
                reply = await client.post(server.url, json=body)
                reply.raise_for_status()
                latencies.append(time.perf_counter() - started)
                tokens += server.count(reply.json())

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return tokens / (time.perf_counter() - started), statistics.median(latencies)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", nargs="+", default=["bf16", "int4"], choices=list(WIDTHS))
    args = parser.parse_args()
    path = one_b()
    llama_cpp.build()
    found = {}
    print("| width | concurrency | galerne tok/s (s a request) | llama-server | ratio |")
    print("|---|---:|---:|---:|---:|")
    for width in args.widths:
        servers = [Galerne(path, width), LlamaServer(path, width)]
        results = {}
        for seed in range(args.rounds + 1):
            for concurrency in CONCURRENCY:
                for server in servers:
                    result = asyncio.run(load(server, concurrency, seed))
                    if seed:  # the first round warms up
                        results.setdefault((concurrency, server.name), []).append(result)
        for server in servers:
            server.close()
        for concurrency in CONCURRENCY:
            ours, theirs = (
                [
                    statistics.median(column)
                    for column in zip(*results[concurrency, s.name], strict=True)
                ]
                for s in servers
            )
            ratio = ours[0] / theirs[0]
            cells = (f"{speed:.0f} ({seconds:.2f})" for speed, seconds in (ours, theirs))
            print(f"| {width} | {concurrency} | {' | '.join(cells)} | {ratio:.2f}x |", flush=True)
        found[width] = {f"{name}/{c}": rows for (c, name), rows in results.items()}
    out = ROOT / "bench-out"
    out.mkdir(exist_ok=True)
    (out / "http.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
