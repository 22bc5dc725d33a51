"""Gateways with experts of their own, for tests of the autoscaler and the simulator.

The cost model is the real one, on a machine with round numbers: a step takes 8 ms, 0.5 ms a token
and 0.1 us for each key that a query sees, so that one gateway carries 11.3 requests/s.
"""

from dataclasses import replace

from cluster.planning.autoscaler import Autoscaler, ScalerState
from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration, ExpertCost, Linear
from cluster.planning.load import Load, Objectives
from cluster.planning.observed import Observed
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from cluster.simulator.timing import models
from galerne.topology import LinkTransport, Mode
from helpers.planning import SHAPE, create_cluster, create_node

STEP = Linear(0.008, 0.0005)  # by tokens in the step, prompt or decode
KEY_S = 1e-7
CARRIED = 11.3  # requests/s of 100 + 50 tokens by one gateway
FREE = Linear(0.0, 0.0)
NODE = create_node(
    layer=Linear(STEP.fixed_s / SHAPE.num_layers, STEP.per_unit_s / SHAPE.num_layers),
    attention_s=KEY_S / SHAPE.num_layers,
    experts=ExpertCost(fixed_s=0.0, per_expert_s=0.0, per_row_s=0.0),
    head=FREE,
    step=FREE,
)
CALIBRATION = Calibration(gateway=NODE, shard=NODE, links={}, request_s=0.0, frontend_s=0.0)
CLUSTER = create_cluster(8, transports=frozenset({LinkTransport.LOCAL}))


def create_candidate(gateways=1, max_num_seqs=32):
    return Candidate(
        mode=Mode.LATENCY if gateways == 1 else Mode.THROUGHPUT,
        transport=LinkTransport.LOCAL,
        gateways=gateways,
        shards=1,
        replicas=1,
        micro_batches=1,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=512,
        gateway_nodes=gateways,
    )


CANDIDATES = tuple(create_candidate(n) for n in range(1, 9))


def model_of(candidate, **overrides):
    return replace(models(SHAPE, CALIBRATION)(candidate), **overrides)


def create_planner(candidates=CANDIDATES, mode=None, **objectives):
    return Planner(
        shape=SHAPE,
        calibration=CALIBRATION,
        objectives=Objectives(**{"ttft_p95_s": 2.0, **objectives}),
        mode=mode,
        only=candidates,
    )


def predict(candidate, load):
    return create_planner().predict(candidate, load)


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
    latest=None,
    is_settled=True,
):
    load = create_load(requests_per_s)
    return Observed(
        at_s=0.0,
        load=load,
        upper=replace(load, requests_per_s=requests_per_s * 1.1 if upper is None else upper),
        recent_requests_per_s=requests_per_s if recent is None else recent,
        latest_requests_per_s=requests_per_s if latest is None else latest,
        waiting=waiting,
        running=running,
        idle_s=idle_s,
        ttft_p95_s=None,
        inter_token_p95_s=None,
        num_arrivals=0,
        is_settled=is_settled,
    )


def create_state(current=CANDIDATES[0], num_nodes=8, observed=None, cluster=CLUSTER, **other):
    observed = create_observed() if observed is None else observed
    return ScalerState(
        current=current, observed=observed, num_nodes=num_nodes, cluster=cluster, **other
    )


def create_autoscaler(
    candidates=CANDIDATES, ttft_p95_s=2.0, max_nodes=None, node_weight=None, **config
):
    promised = {"ttft_p95_s": ttft_p95_s, "max_nodes": max_nodes, "node_weight": node_weight}
    return Autoscaler(ScalerConfig(**config), create_planner(candidates, **promised))
