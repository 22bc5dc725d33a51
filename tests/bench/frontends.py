"""``make bench-frontends``: what one frontend carries, and what a second one adds.

    python -m tests.bench.frontends [--frontends 1 2] [--seconds 8] [--out FILE]

A real ingress (Ray Serve, HAProxy) in front of a gateway whose tokens cost nothing, and clients in
a process of their own. All share the cores of this machine, so beside what came through per second
it says how much a core of the frontend's process gives: tokens, or requests, per second of its CPU
time. One frontend is one event loop, so it carries about that, where it has a core of its own.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import psutil

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.ingress_server import IngressServer
from helpers.instant_gateway import InstantGateway

_WARM_S = 1.0
_HELLO = [{"role": "user", "content": "Hello"}]


class Case(NamedTuple):
    """One kind of load, in a closed loop."""

    name: str
    api: str  # grpc: Generate; http: chat completions as server-sent events
    streams: int
    tokens: int  # of an answer
    pause_ms: int  # between two of them; 0: as fast as they are taken


CASES = (
    Case("gRPC, 64 streams, a token each 20 ms", "grpc", 64, 400, 20),
    Case("HTTP, 64 streams, a token each 20 ms", "http", 64, 400, 20),
    Case("gRPC, 16 streams, as fast as taken", "grpc", 16, 1000, 0),
    Case("HTTP, 16 streams, as fast as taken", "http", 16, 1000, 0),
    Case("gRPC, 16 at a time, one token each", "grpc", 16, 1, 0),
    Case("HTTP, 16 at a time, one token each", "http", 16, 1, 0),
)


class Result(NamedTuple):
    """Of one case."""

    case: str
    frontends: int
    tokens_per_s: float
    requests_per_s: float
    cores: list[float]  # that each frontend took
    tokens_per_core_s: float
    requests_per_core_s: float


# -- the clients --------------------------------------------------------------------------------


async def ask_grpc(address, case, count, is_over):
    """Requests one after the other, counted as they come."""
    sampling = pb.SamplingParams(max_tokens=case.tokens, ignore_eos=True)
    request = pb.GenerateRequest(text="Hello", sampling=sampling, priority=case.pause_ms)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        while not is_over.is_set():
            async for event in stub.Generate(request):
                count["tokens"] += len(event.tokens.token_ids)
            count["requests"] += 1


async def ask_http(address, case, count, is_over):
    """The same over HTTP; the two chunks around an answer's tokens are counted as well."""
    url = f"http://{address}/v1/chat/completions"
    body = {"model": "fake", "messages": _HELLO, "max_tokens": case.tokens, "stream": True}
    body |= {"priority": case.pause_ms, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=60) as client:
        while not is_over.is_set():
            async with client.stream("POST", url, json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    count["tokens"] += line.startswith("data: {")
            count["requests"] += 1


async def client(address, case, seconds):
    """Counts of the time between warm-up and end."""
    ask = ask_grpc if case.api == "grpc" else ask_http
    count, is_over = {"tokens": 0, "requests": 0}, asyncio.Event()
    tasks = [asyncio.create_task(ask(address, case, count, is_over)) for _ in range(case.streams)]
    await asyncio.sleep(_WARM_S)
    print(json.dumps({"begun": True}), flush=True)
    before, began_s = dict(count), time.perf_counter()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - began_s
    told = {name: (count[name] - before[name]) / took_s for name in count}
    print(json.dumps(told), flush=True)
    is_over.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- the measurement ----------------------------------------------------------------------------


def frontends_of(server):
    """Their processes."""
    family = psutil.Process(server.started["pid"]).children(recursive=True)
    return [p for p in family if any("ServeReplica" in word for word in p.cmdline())]


def measure(server, case, seconds):
    """One case, with what each frontend's process took meanwhile."""
    address = server.started[case.api]
    command = [sys.executable, "-m", "tests.bench.frontends", "--client", address]
    command += [case.name, str(seconds)]
    processes = frontends_of(server)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert json.loads(child.stdout.readline()) == {"begun": True}
        before = [cpu_s(process) for process in processes]
        told = json.loads(child.stdout.readline())
        cores = [(cpu_s(p) - b) / seconds for p, b in zip(processes, before, strict=True)]
    return Result(
        case=case.name,
        frontends=len(processes),
        tokens_per_s=told["tokens"],
        requests_per_s=told["requests"],
        cores=[round(taken, 3) for taken in cores],
        tokens_per_core_s=told["tokens"] / sum(cores),
        requests_per_core_s=told["requests"] / sum(cores),
    )


def cpu_s(process):
    times = process.cpu_times()
    return times.user + times.system


def run(counts, seconds):
    """All cases, for each number of frontends."""
    results, gateway = [], InstantGateway()
    try:
        for count in counts:
            roster = {"mode": "latency", "epoch": 1, "gateways": {"gateway-0": gateway.address}}
            server = IngressServer(roster, frontends={"at_least": count, "at_most": count})
            try:
                for case in CASES:
                    results.append(measure(server, case, seconds))
                    show(results[-1])
            finally:
                server.stop()
    finally:
        gateway.close()
    return results


def show(result):
    """One line."""
    print(
        f"{result.frontends} frontend(s)  {result.case:<38} {result.tokens_per_s:9.0f} tokens/s "
        f"{result.requests_per_s:7.1f} requests/s  cores {result.cores}  per core-second "
        f"{result.tokens_per_core_s:8.0f} tokens, {result.requests_per_core_s:6.1f} requests",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frontends", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        address, name, seconds = options.client
        [case] = [case for case in CASES if case.name == name]
        asyncio.run(client(address, case, float(seconds)))
        return
    results = run(options.frontends, options.seconds)
    if options.out is not None:
        options.out.write_text(json.dumps([r._asdict() for r in results], indent=1))


if __name__ == "__main__":
    main()
