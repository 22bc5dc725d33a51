"""What a candidate gives under a load. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from cluster.planning.candidate import Candidate, Prediction
from cluster.planning.costs import Calibration, Scatter
from cluster.planning.load import NO_GUESSING, Load
from cluster.planning.occupancy import Occupancy, occupancy
from cluster.planning.queueing import Wait, admission_wait, prefill_wait
from cluster.planning.shape import ModelShape
from cluster.planning.steady import Capacity, GatewayModel, Steady, busy_fraction
from galerne.topology import LinkTransport

_PARTS = (0.5, 0.95)
_NO_SCATTER = Scatter(gap_p50=1.0, gap_p95=1.0, first_p95=1.0)


def predict(
    shape: ModelShape, calibration: Calibration, candidate: Candidate, load: Load
) -> Prediction:
    """Times, rates and memory of ``candidate`` in the steady state under ``load``.

    Without load: the times of a lone request of the load's sizes. A load that cannot be carried:
    infinite request times; memory and ``step_s`` are then those at the limits. Guesses are made
    only where they pay.

    Raises:
        ValueError: The calibration lacks a link that the candidate needs.
    """
    given = _predict(shape, calibration, candidate, load)
    if load.guessing == NO_GUESSING:
        return given
    plain = _predict(shape, calibration, candidate, replace(load, guessing=NO_GUESSING))
    return min((plain, given), key=lambda p: (p.completion_s, -p.max_requests_per_s))


def _predict(
    shape: ModelShape, calibration: Calibration, candidate: Candidate, load: Load
) -> Prediction:
    model = GatewayModel(shape, calibration, candidate, load)
    capacity = model.capacity()
    rate = load.requests_per_s / candidate.gateways
    if rate >= capacity.requests_per_s:
        return _overloaded(model, capacity)
    state = model.steady(rate, capacity)
    variation = (load.arrival_cv2 + load.service_cv2) / 2
    prefill_s = _prefill_seconds(model, state)
    present = _occupancy(model, state, rate, capacity)
    admission = admission_wait(rate, capacity.requests_per_s, present.waits, variation=variation)
    share = rate * state.step_s * model.prompt / model.budget(state.seen)
    behind = prefill_wait(share, prefill_s, variation=variation)
    waits = (admission, behind)
    fixed_s = model.begun_s + calibration.frontend_s + prefill_s
    mean_ttft_s = fixed_s + busy_fraction(state.running) * state.step_s / 2
    mean_ttft_s += admission.mean_s + behind.mean_s
    extra_s = _chunk_seconds(model, state)
    ttft = [fixed_s + _found_seconds(present, part) + _percentile(waits, part) for part in _PARTS]
    gaps = [present.gap_s(part, state.chunk_fraction, extra_s) for part in _PARTS]
    gaps[0] /= load.guessing.tokens  # in the p95 are those that come alone
    scatter = calibration.scatter or _NO_SCATTER
    memory = _memory(model, max(state.running, 1.0))
    parts = model.parts(state.seen, 0.0, state.peers)
    return Prediction(
        ttft_p50_s=ttft[0],
        ttft_p95_s=_scattered(ttft[0], ttft[1], scatter.first_p95),
        inter_token_p50_s=gaps[0] * scatter.gap_p50,
        inter_token_p95_s=scatter.gap_p50
        * _scattered(gaps[0], gaps[1], scatter.gap_p95 / scatter.gap_p50),
        completion_s=mean_ttft_s + (model.steps - 1) * state.step_s,
        requests_per_s=load.requests_per_s,
        max_requests_per_s=candidate.gateways * capacity.requests_per_s,
        running=state.running,
        utilisation=rate / capacity.requests_per_s,
        gateway_bytes=memory.gateway_bytes,
        shard_bytes=memory.shard_bytes,
        cache_tokens=memory.cache_tokens,
        step_s=state.decode_s,
        parts_s=parts,
    )


def _scattered(p50_s: float, p95_s: float, ratio: float) -> float:
    """The p95 where each value scatters besides by ``ratio``, its own p95 over its p50.

    Independent factors: the squares of their logarithms add up, as lognormal ones' do.
    """
    return p50_s * math.exp(math.hypot(math.log(p95_s / p50_s), math.log(ratio)))


def _prefill_seconds(model: GatewayModel, state: Steady) -> float:
    """A prompt's chunks, one a step, beside the sequences that an arrival finds running."""
    others = state.seen - 1
    chunk = model.budget(others)
    whole, rest = divmod(model.prompt, chunk)
    seconds = whole * model.seconds(others, chunk, state.peers) if whole else 0.0
    if rest or not whole:
        seconds += model.seconds(others, max(rest, 1.0), state.peers)
    return seconds


def _percentile(waits: tuple[Wait, ...], fraction: float) -> float:
    """Of the sum, from above: all waits are long at once."""
    return sum(wait.percentile_s(fraction) for wait in waits)


def _occupancy(model: GatewayModel, state: Steady, rate: float, capacity: Capacity) -> Occupancy:
    """How many run at the same time; arrivals lengthen all steps alike."""
    slots = max(1, math.floor(capacity.slots))
    delay = state.step_s / state.decode_s

    def decode_s(num_decoding: float) -> float:
        return model.seconds(num_decoding, 0.0, state.peers)

    return occupancy(rate, model.steps, slots, decode_s, delay)


def _chunk_seconds(model: GatewayModel, state: Steady) -> float:
    """By which a chunk lengthens a step, at least as beside one sequence: it shares least there."""
    chunk = min(model.prompt, model.budget(1.0))
    if not chunk:
        return 0.0
    lone_s = model.seconds(1.0, chunk, 0.0) - model.seconds(1.0, 0.0, 0.0)
    begun_s = model.begun_s * chunk / model.prompt
    return max(state.chunk_s - state.decode_s, lone_s + begun_s)


def _found_seconds(present: Occupancy, fraction: float) -> float:
    """The step that an arrival finds going on: half of it is left, at worst all of it."""
    found = present.found(fraction)
    return fraction * float(present.step_s[found - 1]) if found else 0.0


class _Memory(NamedTuple):
    """Of one gateway and of one shard on cores; of GPUs see ``GpuMemory``."""

    gateway_bytes: float
    shard_bytes: float
    cache_tokens: float


def _memory(model: GatewayModel, running: float) -> _Memory:
    shape, candidate = model.shape, model.candidate
    tokens = running * (model.prompt + model.output)
    gateway = shape.dense_bytes + tokens * shape.kv_bytes_per_token
    if candidate.transport is LinkTransport.LOCAL:
        return _Memory(gateway + shape.routed_bytes, 0.0, tokens)
    return _Memory(gateway, shape.routed_bytes * candidate.replicas / candidate.shards, tokens)


def _overloaded(model: GatewayModel, capacity: Capacity) -> Prediction:
    candidate = model.candidate
    running = max(capacity.slots, 1.0)
    memory = _memory(model, running)
    parts = model.parts(running, 0.0, candidate.gateways - 1.0)
    maximum = candidate.gateways * capacity.requests_per_s
    return Prediction(
        ttft_p50_s=math.inf,
        ttft_p95_s=math.inf,
        inter_token_p50_s=math.inf,
        inter_token_p95_s=math.inf,
        completion_s=math.inf,
        requests_per_s=maximum,
        max_requests_per_s=maximum,
        running=capacity.slots,
        utilisation=model.load.requests_per_s / maximum,
        gateway_bytes=memory.gateway_bytes,
        shard_bytes=memory.shard_bytes,
        cache_tokens=memory.cache_tokens,
        step_s=sum(parts.values()),
        parts_s=parts,
    )
