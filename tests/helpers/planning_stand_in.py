"""A small honest cost model for tests of the autoscaler and the simulator.

Gateways with experts of their own; times from ``costs.py``. The same formula times the simulator's
steps and makes the predictions, so that what differs is the queueing alone.
"""

import math
from dataclasses import replace

from cluster.planning.assess import Limits
from cluster.planning.autoscaler import Autoscaler, ScalerState
from cluster.planning.candidate import Candidate, Prediction
from cluster.planning.costs import Linear
from cluster.planning.load import Load, Objectives
from cluster.planning.observed import Observed
from cluster.planning.scaler_config import ScalerConfig
from cluster.simulator.timing import GatewayModel
from galerne.topology import LinkTransport, Mode

STEP = Linear(0.008, 0.0005)  # by tokens in the step, prompt or decode
CONTEXT_S = 1e-7  # one decoding sequence with one token of context
MAX_NUM_SEQS = 32
BUDGET = 512


def create_candidate(gateways=1, max_num_seqs=MAX_NUM_SEQS):
    return Candidate(
        mode=Mode.LATENCY if gateways == 1 else Mode.THROUGHPUT,
        transport=LinkTransport.LOCAL,
        gateways=gateways,
        shards=1,
        replicas=1,
        micro_batches=1,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=BUDGET,
        gateway_nodes=gateways,
    )


CANDIDATES = tuple(create_candidate(n) for n in range(1, 9))


def step_seconds(num_decoding, mean_context, num_prefill):
    tokens = num_decoding + num_prefill
    return STEP.seconds(tokens) + CONTEXT_S * num_decoding * mean_context


def model_of(candidate, **overrides):
    return GatewayModel(
        step_seconds=step_seconds,
        max_num_seqs=candidate.max_num_seqs,
        max_batched_tokens=candidate.max_batched_tokens,
        **overrides,
    )


def predict(candidate, load):
    """Steady state by Little's law; the wait of an M/G/1-like queue, widened by bursts."""
    rate = load.requests_per_s / candidate.gateways
    prompt, output = load.prompt_tokens, max(1.0, load.output_tokens)
    context = prompt + output / 2
    prefill_s = STEP.per_unit_s * prompt
    full_step_s = step_seconds(candidate.max_num_seqs, context, 0)
    most = 1 / (prefill_s + output * full_step_s / candidate.max_num_seqs)
    busy = rate / most
    if busy >= 1:
        step_s = ttft_s = math.inf
        running = float(candidate.max_num_seqs)
    else:
        # n = rate * output * step(n) with the share of prompts in each step: linear in n.
        per_sequence = STEP.per_unit_s + CONTEXT_S * context
        free = max(1e-9, 1 - rate * prefill_s)
        running = rate * output * STEP.fixed_s / max(1e-9, free - rate * output * per_sequence)
        running = min(running, candidate.max_num_seqs)
        step_s = step_seconds(max(1.0, running), context, 0) / free
        spread = (load.arrival_cv2 + load.service_cv2) / 2
        # Only when all places are taken does anyone wait for one.
        queue_s = spread * busy ** math.sqrt(2 * (candidate.max_num_seqs + 1)) / (1 - busy) / most
        ttft_s = queue_s + step_s / 2 + step_s + prefill_s
    return Prediction(
        ttft_p50_s=ttft_s,
        ttft_p95_s=ttft_s * 2,
        inter_token_p50_s=step_s,
        inter_token_p95_s=step_s * 1.5,
        completion_s=ttft_s + output * step_s,
        requests_per_s=min(load.requests_per_s, most * candidate.gateways),
        max_requests_per_s=most * candidate.gateways,
        running=running,
        utilisation=busy,
        gateway_bytes=0.0,
        shard_bytes=0.0,
        step_s=step_s,
        parts_s={},
    )


def create_load(requests_per_s=0.0, prompt_tokens=100.0, output_tokens=50.0, **other):
    return Load(
        requests_per_s=requests_per_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        **other,
    )


def create_observed(
    requests_per_s=0.0,
    upper=None,
    waiting=0,
    running=0,
    idle_s=0.0,
    recent=None,
    is_settled=True,
):
    load = create_load(requests_per_s)
    return Observed(
        at_s=0.0,
        load=load,
        upper=replace(load, requests_per_s=requests_per_s * 1.1 if upper is None else upper),
        recent_requests_per_s=requests_per_s if recent is None else recent,
        waiting=waiting,
        running=running,
        idle_s=idle_s,
        ttft_p95_s=None,
        inter_token_p95_s=None,
        num_arrivals=0,
        is_settled=is_settled,
    )


def create_state(current=CANDIDATES[0], num_nodes=8, observed=None, **other):
    observed = create_observed() if observed is None else observed
    return ScalerState(current=current, observed=observed, num_nodes=num_nodes, **other)


def create_autoscaler(
    candidates=CANDIDATES, ttft_p95_s=2.0, max_nodes=None, node_weight=1.0, **config
):
    objectives = Objectives(ttft_p95_s=ttft_p95_s, max_nodes=max_nodes)
    limits = Limits(objectives=objectives, node_weight=node_weight)
    return Autoscaler(ScalerConfig(**config), limits, candidates, predict)
