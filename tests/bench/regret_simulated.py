"""Regret on machines that are not here, in the simulator, for the true Mistral Small 4 shape.

``mixed``: one H100 as gateway and 8 CPU servers (200 GB/s of memory, 25 GbE) for the experts, of
which each is a shard that computes on all its cores. ``threads``: the same servers with a shard of
one thread on each of 16 cores, which is how shards are built today. ``gpus``: 64 H100 (80 GB),
400 Gb/s between them; no one of them holds the model.
"""

import statistics
import time
from dataclasses import dataclass, replace

from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.judge import weighed
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.run import Setup, simulate
from cluster.simulator.scaling import Scaling
from cluster.simulator.timing import models
from cluster.simulator.workload import Bursts, Lengths, burst_phases, phases
from galerne.topology import LinkTransport, Mode
from tests.bench import roofline_costs as machines
from tests.bench.foresight import Foreseeing
from tests.bench.regret import OUT, finish
from tests.bench.roofline_costs import SMALL_4

LENGTHS = Lengths(prompt_mean=800, output_mean=200, cv2=0.5)
SETTLED_S = 120.0  # from then on an autoscaler has had the time to watch, to decide and to change
LOW, STEADY, HIGH, PEAK = 0.05, 0.25, 0.5, 0.8  # of what the fullest candidate carries
BETWEEN = (0.02, 0.1, 0.15, 0.35, 0.42, 0.6, 0.7, 0.9, 0.97)
KV_TOKENS = 1 << 20


@dataclass(frozen=True)
class Site:
    """Machines, and what they cost."""

    cluster: ClusterShape
    calibration: Calibration
    window_s: float = 60.0  # of observation


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
    return Site(cluster, machines.calibration(machines.H100, server, machines.ETHERNET_25), 300.0)


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


def static_shapes(site, most, weight):
    """(shapes, what auto may choose, the best one of each mode, requests/s of the fullest of all).

    Of all that the machines' memory permits: the best one of each mode, the best at one of the
    loads, and the next best ones up to ``most``; sizes between the listed ones are among them. Auto
    has, besides, those that are best at loads between.
    """

    def order(rate, mode=None):
        found = planner_of(site, None, weight, mode).rank(site.cluster, Demand(load_at(rate)))
        return [j for j in found if j.is_possible and j.candidate.replicas == 1]

    top = max(judged.prediction.max_requests_per_s for judged in order(0.0))

    of_mode = {mode: order(STEADY * top, mode)[0].candidate for mode in Mode}
    ladder = {share: order(share * top) for share in (LOW, STEADY, HIGH, PEAK, *BETWEEN)}
    by_load = zip(*(ladder[share] for share in (LOW, STEADY, HIGH, PEAK)), strict=False)
    chosen = dict.fromkeys([*of_mode.values(), *(j.candidate for row in by_load for j in row)])
    shapes = list(chosen)[:most]
    allowed = dict.fromkeys([*shapes, *(row[0].candidate for row in ladder.values())])
    return shapes, list(allowed), of_mode, top


def planner_of(site, only, weight, mode=None):
    return Planner(
        shape=SMALL_4,
        calibration=site.calibration,
        objectives=Objectives(node_weight=weight),
        mode=mode,
        only=only,
    )


def workloads(top, seconds, seed):
    """load -> its phases, each a rate and its length."""
    rates = Bursts(
        quiet_requests_per_s=LOW * top,
        burst_requests_per_s=PEAK * top,
        quiet_mean_s=240,
        burst_mean_s=120,
    )
    found = {
        f"{name} {share * top:.3g}/s": [(share * top, seconds)]
        for name, share in (("low", LOW), ("steady", STEADY), ("high", HIGH))
    }
    found[f"burst to {PEAK * top:.3g}/s"] = list(burst_phases(rates, seconds, seed))
    return found


def plain(result, latencies, from_s, weight):
    """What is told of a run, of the requests that came from a time on."""
    watched = [sample.num_nodes for sample in result.samples if sample.at_s >= from_s]
    nodes, completion_s = statistics.mean(watched), latencies.completion_s.mean
    return {
        "completion_s": completion_s,
        "requests_per_s": latencies.completion_s.count / (latencies.last_end_s - from_s),
        "ttft_p95_s": latencies.ttft_s.quantile(0.95),
        "failed": result.num_unserved,
        "nodes": nodes,
        "cost": weighed(completion_s, nodes, weight),
    }


def name_of(candidate: Candidate):
    c = candidate
    nodes = f"{c.gateway_nodes}+{c.shard_nodes} nodes"
    micro = f", m{c.micro_batches}" if c.micro_batches > 1 else ""
    return f"{c.mode.value[:3]} {c.gateways} gw {c.shards} sh, {nodes}{micro}, b{c.max_num_seqs}"


def run_site(name, arguments):
    site, weight = SITES[name], arguments.node_weight
    shapes, allowed, best, top = static_shapes(site, arguments.shapes or 16, weight)
    planner = planner_of(site, allowed, weight)
    titles = {c: name_of(c) for c in allowed}
    titles |= {c: f"static {mode.value}: {name_of(c)}" for mode, c in best.items()}
    start = planner.rank(site.cluster, Demand(load_at(LOW * top)))[0].candidate
    setup = Setup(
        model_of=models(SMALL_4, site.calibration, kv_tokens=KV_TOKENS),
        start=start,
        seconds=arguments.simulated_s,
        settled_from_s=SETTLED_S,
    )
    scaling = Scaling(
        autoscaler=Autoscaler(ScalerConfig(), planner),
        cluster=site.cluster,
        # Those that are not used are paid for only where machines weigh nothing.
        supply=NodeSupply(at_start=0, most=site.cluster.num_nodes, provision_s=0.0),
        window_s=site.window_s,  # some requests a minute, each of a minute, tell little in one
        change_s=lambda old, new: arguments.change_s,
    )
    static, auto, chosen, foreseen = ({}, {}), ({}, {}), {}, {}
    for load, spans in workloads(top, arguments.simulated_s, arguments.seed).items():
        if not load.startswith(tuple(arguments.loads)):
            continue
        began_s, rate = time.monotonic(), max(rate for rate, _ in spans)
        arrivals = list(phases(spans, LENGTHS, arguments.seed))
        for candidate in shapes:
            result = simulate(arrivals, replace(setup, start=candidate))
            for told, row in zip(static, rows(result, weight), strict=True):
                told.setdefault(titles[candidate], {})[load] = row
        result = simulate(arrivals, setup, scaling)
        for told, row in zip(auto, rows(result, weight), strict=True):
            told[load] = row | {"choice": history(start, result)}
        if arguments.foresight:
            foreseen[load] = with_foresight(arrivals, spans, setup, scaling, arguments.change_s)
        demand = Demand(load_at(rate))
        order = planner.rank(site.cluster, demand)
        chosen[load] = {
            "name": titles[order[0].candidate],
            "requests_per_s": rate,
            "sensitivity": getattr(planner.sensitivity(order, site.cluster, demand), "text", ""),
        }
        spent_s = time.monotonic() - began_s
        print(f"  {load}: {len(arrivals)} requests, {spent_s:.1f} s", flush=True)
    stem, title = f"regret-simulated-{name}-w{weight:g}", f"simulated: {name}, weight {weight:g}"
    finish(static[0], auto[0], chosen, OUT / stem, f"{title}, from the shape of the low load")
    later = f"{title}, who came after {SETTLED_S:.0f} s"
    finish(static[1], auto[1], chosen, OUT / f"{stem}-settled", later)
    for load, found in foreseen.items():
        least = min(by_load[load]["completion_s"] for by_load in static[0].values())
        told = ", ".join(f"{name} {seconds / least - 1:+.0%}" for name, seconds in found.items())
        print(f"  {load}, regret of who knows the load: {told}", flush=True)


def with_foresight(arrivals, spans, setup, scaling, change_s):
    """Mean completion of the same autoscaler if it knew the load of now, or of a change's time."""
    usual, found = scaling.autoscaler, {}
    for name, ahead_s in (("of now", 0.0), ("a change ahead", change_s + scaling.tick_s)):
        knowing = Foreseeing(usual.config, usual.planner, load_at(0.0), spans, ahead_s)
        start = setup.start
        if ahead_s:
            demand = Demand(knowing.load_at(0.0))
            start = usual.planner.rank(scaling.cluster, demand)[0].candidate
        result = simulate(
            arrivals, replace(setup, start=start), replace(scaling, autoscaler=knowing)
        )
        found[name] = result.latencies.completion_s.mean
    return found


def rows(result, weight):
    """Of all requests, and of those that came later."""
    whole = plain(result, result.latencies, result.first_s, weight)
    return whole, plain(result, result.settled, SETTLED_S, weight)


def history(start, result):
    """The shapes that the autoscaler had, and since when."""
    changes = [f"{name_of(c.candidate)} at {c.at_s:.0f} s" for c in result.commits]
    return "; ".join([name_of(start), *changes])


def run_simulated(arguments):
    for name in arguments.sites:
        run_site(name, arguments)
