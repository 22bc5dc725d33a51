"""What serving adds to an engine's steps: ingress, frontends and clients that want its cores.

A private server of the small model, experts in its gateway, and a client beside it: what
``galerne serve`` starts. Whole steps as the client sees them, less the engine's own, are what the
way of the tokens takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from cluster.doctor.fit import Point, fit_curve, relative_drift
from cluster.doctor.line_process import LineProcess, MeasureProcessError
from cluster.doctor.measure_engine import CheckPoint
from cluster.doctor.setup import Subject
from cluster.doctor.steps import Rounds
from cluster.planning.costs import Curve, Scatter

_PROMPT_TOKENS = 4
_COUNTS = (1, 4, 16, 32)
_NUM_LONE = 24
_REST_S = 0.1
_OUTPUT_TOKENS = 32  # and one more for every sequence: late ones must find the early ones running
_MAX_MODEL_LEN = 1024
_WARM_SEED = 1 << 20
_AT_LEAST_S = 3.0
_LEAST_S = 1e-6


class ServingCosts(NamedTuple):
    """Costs around the engine."""

    answer: Curve  # of a step, by sequences
    request_s: float
    frontend_s: float
    scatter: Scatter
    steps: Sequence[CheckPoint]  # whole, as the client saw them
    drift: float  # last round against first


class Wave(NamedTuple):
    """So many requests at once."""

    num_sequences: int
    first_s: float  # until the last of them has its first token
    gap_s: float  # between two tokens, while all of them run
    gap_p50_s: float
    gap_p95_s: float


def measure_serving(
    subject: Subject, alone: Sequence[CheckPoint], deadline_s: float
) -> ServingCosts:
    """Measure until ``deadline_s`` of ``time.monotonic``; a few rounds are made even so.

    ``alone``: decode steps of the same model without any of that.

    Raises:
        MeasureProcessError: Server or client do not start.
    """
    alone = [step for step in alone if step.num_sequences in _COUNTS] or alone
    counts = [step.num_sequences for step in alone]
    with ExitStack() as processes:
        client = _client_of(subject, processes)
        for count in counts:  # connects, and warms up
            _wave(client, count, _WARM_SEED)
        # What starting took is not taken from measuring.
        until_s = max(deadline_s, time.monotonic() + _AT_LEAST_S)
        lone = [_lone_first_s(client, number) for number in range(_NUM_LONE)]
        rounds = [[_wave(client, count, number) for count in counts] for number in Rounds(until_s)]
    first, last = ([wave.gap_s for wave in rounds[at]] for at in (0, -1))
    waves = [
        Wave(
            some[0].num_sequences, *(median(values) for values in list(zip(*some, strict=True))[1:])
        )
        for some in zip(*rounds, strict=True)
    ]
    return fit_serving(waves, alone, lone, relative_drift(first, last))


def fit_serving(
    waves: Sequence[Wave], alone: Sequence[CheckPoint], lone: Sequence[float], drift: float
) -> ServingCosts:
    """What waves take beyond the engine's own steps, which are ``alone``, in the same order.

    ``lone``: seconds to the first token of single requests, each with a rest before it.

    The first tokens of n requests take ``frontend_s + n · request_s`` and a step.

    Raises:
        ValueError: No waves.
    """
    answer = fit_curve(
        [
            Point(w.num_sequences, max(w.gap_s - a.seconds, _LEAST_S))
            for w, a in zip(waves, alone, strict=True)
        ]
    )
    extra = [(w.num_sequences, w.first_s - a.seconds) for w, a in zip(waves, alone, strict=True)]
    (fewest, few_s), (most, many_s) = extra[0], extra[-1]
    request_s = max((many_s - few_s) / max(most - fewest, 1), _LEAST_S)
    return ServingCosts(
        answer=answer.curve,
        request_s=request_s,
        frontend_s=max(median(lone) - alone[0].seconds - request_s, _LEAST_S),
        scatter=Scatter(
            gap_p50=min(median(w.gap_p50_s / w.gap_s for w in waves), 1.0),
            gap_p95=max(median(w.gap_p95_s / w.gap_s for w in waves), 1.0),
            first_p95=sorted(lone)[int(0.95 * len(lone))] / median(lone),
        ),
        steps=[
            CheckPoint(w.num_sequences, _PROMPT_TOKENS + _num_output(w.num_sequences) / 2, w.gap_s)
            for w in waves
        ],
        drift=drift,
    )


def _client_of(subject: Subject, processes: ExitStack) -> LineProcess:
    settings = {
        "model": str(subject.path.resolve()),
        "experts": subject.experts.label,
        "dense": subject.dense.label,
        "device": subject.device,
        "mode": "latency",
        "transport": "local",
        "max_num_seqs": max(_COUNTS),
        "max_model_len": _MAX_MODEL_LEN,
        "http_port": 0,
        "grpc_port": 0,
        "drain_s": 0.0,
    }
    server = LineProcess("server", "cluster.doctor.server_process", settings)
    processes.callback(server.close)
    settings = {
        "address": server.first_words()["address"],
        "vocab_size": subject.model.vocab_size,
    }
    client = LineProcess("client", "cluster.doctor.client_process", settings)
    processes.callback(client.close)
    client.first_words()
    return client


def _wave(client: LineProcess, count: int, seed: int) -> Wave:
    short = _ask(client, count, seed, 1)
    long = _ask(client, count, seed, _num_output(count))
    if long["gap_quantiles_s"] is None:
        raise MeasureProcessError("client", f"{count} requests never ran all at once")
    return Wave(count, short["first_s"], long["gap_s"], *long["gap_quantiles_s"])


def _lone_first_s(client: LineProcess, seed: int) -> float:
    """To the first token of a request that finds a server at rest, as most lone ones do."""
    time.sleep(_REST_S)
    return float(_ask(client, 1, seed, 1)["first_s"])


def _ask(client: LineProcess, count: int, seed: int, output_tokens: int) -> dict[str, Any]:
    wave = {"streams": count, "prompt_tokens": _PROMPT_TOKENS, "seed": seed}
    return client.ask(wave | {"output_tokens": output_tokens})


def _num_output(count: int) -> int:
    return _OUTPUT_TOKENS + count
