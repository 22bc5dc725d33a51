"""What a step costs around the model: scheduling, sampling, emitting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from cluster.doctor.fit import Point, Residuals, fit_curve
from cluster.doctor.steps import EMBED, Rounds
from cluster.planning.costs import Curve
from router.engine.request import GenerationRequest, SamplingParams
from router.gateway.build import BuiltGateway
from shards.checkpoint.config import ModelConfig

_NUM_STEPS = 8  # of a batch that are measured, all of them decoding
_PROMPT_TOKENS = 4
_WARM_STEPS = 2  # prefill, and the first after it


class CheckPoint(NamedTuple):
    """A decode step of the whole engine."""

    num_sequences: int
    context: float  # mean over the measured steps
    seconds: float  # median


class EngineCosts(NamedTuple):
    """Costs around the model."""

    step: Curve  # by sequences
    residuals: Residuals
    steps: Sequence[CheckPoint]  # whole, to hold predictions against


class _Batch(NamedTuple):
    step_s: float  # median wall time of a decode step
    around_s: float  # of it, without layers and head


def measure_engine(
    built: BuiltGateway, model: ModelConfig, num_sequences: Sequence[int], deadline_s: float
) -> EngineCosts:
    """Decode greedily with so many sequences, through submit, schedule, sample and emit.

    What lies outside the engine (gRPC between frontend and gateway) is not in it. The engine must
    not have been started.
    """
    batches: dict[int, list[_Batch]] = {n: [] for n in num_sequences}
    for number in Rounds(deadline_s):
        for count, found in batches.items():
            found.append(_run_batch(built, model, count, seed=number))
    points = {n: median(b.around_s for b in found) for n, found in batches.items()}
    step = fit_curve([Point(n, seconds) for n, seconds in points.items()])
    context = _PROMPT_TOKENS + _WARM_STEPS + _NUM_STEPS / 2
    return EngineCosts(
        step=step.curve,
        residuals=step.residuals,
        steps=[
            CheckPoint(n, context, median(b.step_s for b in found)) for n, found in batches.items()
        ],
    )


def _run_batch(built: BuiltGateway, model: ModelConfig, count: int, seed: int) -> _Batch:
    engine = built.engine
    admitted = [engine.submit(request) for request in _requests(model, count, seed)]
    engine.take_commands()
    for future in admitted:
        future.result(0)
    steps = [_run_one(built) for _ in range(_WARM_STEPS + _NUM_STEPS + 1)]
    decoding = steps[_WARM_STEPS:-1]  # the last one ends every request
    return _Batch(median(wall for wall, _ in decoding), median(around for _, around in decoding))


def _run_one(built: BuiltGateway) -> tuple[float, float]:
    """(seconds of a turn of the engine's loop, of it without layers and head)."""
    timer = built.runner.timer
    timer.reset()
    started = time.perf_counter()
    built.engine.take_commands()
    built.runner.poll()
    built.engine.step()
    wall_s = time.perf_counter() - started
    inside = sum(seconds for name, seconds in timer.snapshot().items() if name != EMBED)
    return wall_s, wall_s - inside


def _requests(model: ModelConfig, count: int, seed: int) -> list[GenerationRequest]:
    rng = np.random.default_rng((seed, count))
    num_tokens = _WARM_STEPS + _NUM_STEPS + 1
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    return [
        GenerationRequest(
            request_id=f"doctor-{count}-{seed}-{number}",
            prompt_token_ids=tuple(rng.integers(0, model.vocab_size, _PROMPT_TOKENS).tolist()),
            sampling=sampling,
        )
        for number in range(count)
    ]
