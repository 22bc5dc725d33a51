"""What the first token takes outside the gateway: a request over gRPC, and its answer back.

A real gateway and a frontend's client of it, on this machine and in one process. The HTTP server
and the ingress in front of it are not in it.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from statistics import median

import numpy as np

from cluster.doctor.setup import EPOCH, Subject, gateway_settings, topology_of
from cluster.doctor.steps import StepShape
from galerne.loop_thread import grpc_loop
from galerne.topology import LinkTransport
from router.engine.request import GenerationRequest, SamplingParams
from router.gateway.host import GatewayHost
from router.gateway.member import Member

_NUM_REQUESTS = 20
_PROMPT_TOKENS = 4
_TIMEOUT_S = 60.0
_LEAST_S = 1e-6


def measure_frontend(subject: Subject, request_s: float) -> float:
    """Seconds; ``request_s`` is the gateway's own part of a request.

    Raises:
        CheckpointError, ConfigError: See ``build_gateway``.
    """
    topology = topology_of(subject.model, LinkTransport.LOCAL, 1)
    settings = gateway_settings(subject, topology, [StepShape(64, 1, 64)])
    host = GatewayHost(settings, None)
    try:
        outside = grpc_loop().run(_ask(host, subject), _TIMEOUT_S)
    finally:
        host.stop()
    return max(outside - request_s, _LEAST_S)


async def _ask(host: GatewayHost, subject: Subject) -> float:
    """Median time to the first token, less the engine's step."""
    member = Member("gateway-0", host.address, subject.cluster_token)
    try:
        await _first_token(member, subject, 0)  # connects
        found = []
        for number in range(1, _NUM_REQUESTS + 1):
            before = sum(host.engine.timer.snapshot().values())
            taken = await _first_token(member, subject, number)
            # "emit" is still going on when its delta has come; it is short.
            found.append(taken - (sum(host.engine.timer.snapshot().values()) - before))
        return median(found)
    finally:
        await member.close()


async def _first_token(member: Member, subject: Subject, number: int) -> float:
    rng = np.random.default_rng((EPOCH, number))
    prompt = tuple(rng.integers(0, subject.model.vocab_size, _PROMPT_TOKENS).tolist())
    request = GenerationRequest(
        request_id=f"frontend-{number}",
        prompt_token_ids=prompt,
        sampling=SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True),
    )
    started = time.perf_counter()
    taken = 0.0
    async with aclosing(member.submit(request)) as deltas:
        async for _ in deltas:
            taken = taken or time.perf_counter() - started
    return taken
