"""A client of the gRPC API in a process of its own, for the time of a measurement.

    python -m cluster.doctor.client_process < LINES

The first line on stdin is its settings as JSON; it says when it is connected. Every further line
asks for a wave of requests, all sent at once, and is answered with what the client saw of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from typing import Any

import grpc

from cluster.doctor.line_process import say
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc

_CONNECT_S = 30.0
_TIMEOUT_S = 50.0  # of a wave
_PARTS = (0.5, 0.95)
_FIRST_WORD = 1000  # ids below are control tokens


async def _run(settings: dict[str, Any]) -> None:
    async with grpc.aio.insecure_channel(settings["address"]) as channel:
        await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        say({})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            words = range(_FIRST_WORD, settings["vocab_size"])
            say(await asyncio.wait_for(_wave(stub, asked, words), _TIMEOUT_S))


async def _wave(stub: Any, asked: dict[str, Any], words: range) -> dict[str, Any]:  # noqa: ANN401
    rng = random.Random(asked["seed"])  # noqa: S311 - a load, no secret
    sampling = pb.SamplingParams(
        temperature=0.0, max_tokens=asked["output_tokens"], ignore_eos=True
    )
    requests = [
        pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=rng.choices(words, k=asked["prompt_tokens"])),
            sampling=sampling,
        )
        for _ in range(asked["streams"])
    ]
    began_s = time.perf_counter()
    times = await asyncio.gather(*(_follow(stub, request) for request in requests))
    last_first_s = max(each[0] for each in times)
    first_end_s = min(each[-1] for each in times)
    between = [sum(last_first_s < at <= first_end_s for at in each) for each in times]
    tokens = sum(between) / len(between)
    gap_s = (first_end_s - last_first_s) / tokens if tokens else None
    gaps = sorted(
        after - before
        for each in times
        for before, after in itertools.pairwise(each)
        if last_first_s <= before and after <= first_end_s
    )
    quantiles = [gaps[int(part * len(gaps))] for part in _PARTS] if gaps else None
    return {"first_s": last_first_s - began_s, "gap_s": gap_s, "gap_quantiles_s": quantiles}


async def _follow(stub: Any, request: pb.GenerateRequest) -> list[float]:  # noqa: ANN401
    """When each token came."""
    times: list[float] = []
    async for event in stub.Generate(request):
        if event.HasField("tokens"):
            times += [time.perf_counter()] * len(event.tokens.token_ids)
    return times


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.stdin.readline())))
    os._exit(0)  # gRPC's threads need not be waited for
