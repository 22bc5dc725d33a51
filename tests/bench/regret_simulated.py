"""Regret on machines that are not here, in the simulator, for the true Mistral Small 4 shape.

``mixed``: one H100 as gateway and 8 CPU servers (200 GB/s of memory, 25 GbE) for the experts, of
which each is a shard that computes on all its cores. ``threads``: the same servers with a shard of
one thread on each of 16 cores, which is how shards are built today. ``gpus``: 64 H100 (80 GB),
400 Gb/s between them; no one of them holds the model.
"""

import time
from dataclasses import dataclass, replace

from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.run import Setup, simulate
from cluster.simulator.scaling import Scaling
from cluster.simulator.timing import models
from cluster.simulator.workload import Bursts, Lengths, bursts, poisson
from galerne.topology import LinkTransport, Mode
from tests.bench import roofline_costs as machines
from tests.bench.regret import OUT, finish
from tests.bench.roofline_costs import SMALL_4

LENGTHS = Lengths(prompt_mean=800, output_mean=200, cv2=0.5)
OBJECTIVES = Objectives(node_weight=0.0)  # the machines are there, used or not
LOW, STEADY, HIGH, PEAK = 0.05, 0.25, 0.5, 0.8  # of what the fullest candidate carries
KV_TOKENS = 1 << 20


@dataclass(frozen=True)
class Site:
    """Machines, and what they cost."""

    cluster: ClusterShape
    calibration: Calibration


GRPC = frozenset({LinkTransport.GRPC})


def with_servers(server):
    """One H100 and 8 of them."""
    cluster = ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=80e9,
        cores_per_node=server.num_workers,
        transports=GRPC,
        shard_nodes=8,
        shard_node_bytes=256e9,
    )
    return Site(cluster, machines.calibration(machines.H100, server, machines.ETHERNET_25))


SITES = {
    "mixed": with_servers(machines.CPU_SERVER),
    "threads": with_servers(replace(machines.CPU_SERVER, num_workers=16)),
    "gpus": Site(
        ClusterShape(
            gateway_nodes=63,
            gateway_node_bytes=80e9,
            cores_per_node=1,
            transports=GRPC,
            shard_nodes=63,
            shard_node_bytes=80e9,
            max_nodes=64,
        ),
        machines.calibration(machines.H100, machines.H100, machines.INFINIBAND_400),
    ),
}


def load_at(rate):
    return Load(
        requests_per_s=rate,
        prompt_tokens=LENGTHS.prompt_mean,
        output_tokens=LENGTHS.output_mean,
        service_cv2=LENGTHS.cv2,
    )


def static_shapes(site, most):
    """(shapes, the best one of each mode, requests/s that the fullest of all carries).

    Of all that the machines' memory permits the best one of each mode, and those that are best at
    one of the three loads, up to ``most``.
    """
    listed = [c for c in candidates(SMALL_4, site.cluster, OBJECTIVES) if c.replicas == 1]
    idle = planner_of(site, listed).rank(site.cluster, Demand(load_at(0.0)))
    possible = [judged for judged in idle if judged.is_possible]
    top = max(judged.prediction.max_requests_per_s for judged in possible)
    names = [judged.candidate for judged in possible]

    def order(share, mode=None):
        only = [c for c in names if mode in (None, c.mode)]
        found = planner_of(site, only, mode).rank(site.cluster, Demand(load_at(share * top)))
        return [judged.candidate for judged in found]

    of_mode = {mode: order(STEADY, mode)[0] for mode in Mode}
    by_load = zip(*(order(share) for share in (LOW, STEADY, HIGH, PEAK)), strict=True)
    chosen = dict.fromkeys([*of_mode.values(), *(c for row in by_load for c in row)])
    return list(chosen)[:most], of_mode, top


def planner_of(site, only, mode=None):
    return Planner(
        shape=SMALL_4,
        calibration=site.calibration,
        objectives=OBJECTIVES,
        mode=mode,
        only=tuple(only),
    )


def workloads(top, seconds, seed):
    """load -> (its busiest rate, arrivals)."""
    rates = Bursts(
        quiet_requests_per_s=LOW * top,
        burst_requests_per_s=PEAK * top,
        quiet_mean_s=240,
        burst_mean_s=120,
    )
    found = {}
    for name, share in (("low", LOW), ("steady", STEADY), ("high", HIGH)):
        rate = share * top
        found[f"{name} {rate:.3g}/s"] = rate, list(poisson(rate, LENGTHS, seconds, seed))
    found[f"burst to {PEAK * top:.3g}/s"] = PEAK * top, list(bursts(rates, LENGTHS, seconds, seed))
    return found


def plain(result):
    return {
        "completion_s": result.latencies.completion_s.mean,
        "requests_per_s": result.requests_per_s,
        "ttft_p95_s": result.latencies.ttft_s.quantile(0.95),
        "failed": result.num_unserved,
    }


def name_of(candidate: Candidate):
    c = candidate
    nodes = f"{c.gateway_nodes}+{c.shard_nodes} nodes"
    micro = f", m{c.micro_batches}" if c.micro_batches > 1 else ""
    return f"{c.mode.value[:3]} {c.gateways} gw {c.shards} sh, {nodes}{micro}, b{c.max_num_seqs}"


def run_site(name, arguments):
    site = SITES[name]
    shapes, best, top = static_shapes(site, arguments.shapes or 16)
    model_of = models(SMALL_4, site.calibration, kv_tokens=KV_TOKENS)
    work = workloads(top, arguments.simulated_s, seed=1)
    static, auto, chosen = {}, {}, {}
    titles = {c: name_of(c) for c in shapes}
    titles |= {c: f"static {mode.value}: {name_of(c)}" for mode, c in best.items()}
    planner = planner_of(site, shapes)
    start = planner.rank(site.cluster, Demand(load_at(LOW * top)))[0].candidate
    scaling = Scaling(
        autoscaler=Autoscaler(ScalerConfig(), planner),
        cluster=site.cluster,
        supply=NodeSupply(at_start=site.cluster.num_nodes, most=site.cluster.num_nodes),
        change_s=lambda old, new: arguments.change_s,
    )
    for load, (rate, arrivals) in work.items():
        began_s = time.monotonic()
        setup = Setup(model_of=model_of, start=start, seconds=arguments.simulated_s)
        for candidate in shapes:
            held = Setup(model_of=model_of, start=candidate, seconds=arguments.simulated_s)
            static.setdefault(titles[candidate], {})[load] = plain(simulate(arrivals, held))
        result = simulate(arrivals, setup, scaling)
        last = result.commits[-1].candidate if result.commits else start
        changes = len(result.commits)
        word = f"{changes} change{'s' * (changes != 1)}, last {name_of(last)}"
        auto[load] = plain(result) | {"choice": word}
        demand = Demand(load_at(rate))
        order = planner.rank(site.cluster, demand)
        chosen[load] = {
            "name": titles[order[0].candidate],
            "requests_per_s": rate,
            "sensitivity": getattr(planner.sensitivity(order, site.cluster, demand), "text", ""),
        }
        spent_s = time.monotonic() - began_s
        print(f"  {load}: {len(arrivals)} requests, {spent_s:.1f} s", flush=True)
    finish(static, auto, chosen, OUT / f"regret-simulated-{name}", f"simulated: {name}")


def run_simulated(arguments):
    for name in arguments.sites:
        run_site(name, arguments)
