"""Metrics of a whole deployment with every series that load gives them, without a server."""

from types import SimpleNamespace

import numpy as np

from cluster.control.conductor import Stage
from cluster.control.metrics import ControlMetrics, ScalerMetrics
from cluster.planning.load import Objectives
from galerne.errors import OverloadedError
from galerne.topology import Mode
from router.api.events import Usage
from router.api.metrics import FrontendMetrics
from router.engine.gateway_port import GatewayLoad
from router.engine.metrics import EngineMetrics
from router.exchange.calls import SessionCounters
from router.exchange.links import LinkState
from router.exchange.metrics import show_exchange
from router.gateway.metrics import show_gateway
from shards.metrics import ShardMetrics

APIS = ("generate", "chat", "completions", "responses")
OUTCOMES = ("stop", "length", "tool_calls", "abort", "error", "disconnected", "UNAVAILABLE")
PARTS = tuple(f"part-{i}" for i in range(16))


def filled_frontend(num_clients=20):
    made = FrontendMetrics()
    for api in APIS:
        made.ttft_s.labels(api).observe(0.3)
        made.inter_token_s.labels(api).observe(0.03)
        for outcome in OUTCOMES:
            made.running.inc()
            made.ended("anyone", api, outcome, 1.5)
    for number in range(num_clients):
        usage = Usage(prompt_tokens=100, completion_tokens=50, cached_tokens=10)
        made.used(f"client-{number}", usage)
        made.ended(f"client-{number}", "chat", "stop", 1.0)
    made.note_limit(OverloadedError("request queue", 10, 1.0))
    return made


def filled_gateway(shards):
    made = EngineMetrics(lambda: GatewayLoad(running=3, kv_blocks=100))
    counters = SessionCounters()
    for shard in shards:
        link = counters.of(shard)
        link.frames, link.rows = 1_000_000, 5_000_000
        for exponent in range(16):
            link.round_trips.add(1e-5 * 2**exponent)
    up = dict.fromkeys(shards, LinkState.UP)
    show_exchange(made.set, lambda: SimpleNamespace(counters=counters, links=up))
    topology = SimpleNamespace(epoch=3, max_num_seqs=16)
    gateway = SimpleNamespace(topology=topology, unready_reason=None, num_parked=0, adapter_ids=())
    show_gateway(made.set, gateway)
    made.part_seconds.update(dict.fromkeys(PARTS, 12.5))
    for phase in ("decode", "prefill", "draft"):
        made.tokens.labels(phase).inc(1000)
    return made


def filled_shard(num_layers, num_experts, experts):
    made = ShardMetrics(num_layers, num_experts)
    made.expert_rows[:, list(experts)] = 1_000_000
    made.totals[:] = 1_000_000
    made.passes[:] = made.waits[:] = 100_000
    return made


def filled_controller(num_layers, shards):
    made = ControlMetrics()
    topology = SimpleNamespace(epoch=3, mode=Mode.THROUGHPUT)
    conductor = SimpleNamespace(
        current=topology,
        target=None,
        stage=Stage.IDLE,
        is_asleep=False,
        wanted=dict.fromkeys(("gateway-0", *shards), topology),
    )
    made.show_topology(conductor, lambda part: True)
    layers = np.linspace(0.5, 1.0, num_layers).tolist()
    even = SimpleNamespace(balancedness=0.9, balancedness_by_layer=layers, peak_by_layer=layers)
    made.show_experts(even, lambda: 0)
    loops = dict.fromkeys(("keeper", "balancer", "scaler"), SimpleNamespace(turns=7))
    made.show_loops(lambda: loops)
    scaler = ScalerMetrics(made.set)
    scaler.show(Objectives(ttft_p95_s=1.0), lambda: True, lambda: 3, lambda: 0)
    for kind in ("part_restarted", "shard_lost", "experts_adopted", "topology_committed"):
        made.happened(kind, "shard-3")
    return made


def filled_texts(num_layers=36, num_experts=128, num_shards=8):
    """The frontend's own set, and the text of every other process."""
    shards = [f"shard-{i}" for i in range(num_shards)]
    held = np.array_split(np.arange(num_experts), num_shards)
    texts = {
        shard: filled_shard(num_layers, num_experts, experts).text()
        for shard, experts in zip(shards, held, strict=True)
    }
    texts["gateway-0"] = filled_gateway(shards).text()
    texts["controller"] = filled_controller(num_layers, shards).text()
    return filled_frontend().set, texts
