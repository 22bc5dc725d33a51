"""``make bench-simulator``: 1,000 nodes and a million requests; how the cost grows; one decision.

    python -m tests.bench.simulate [--nodes 10 100 1000] [--requests 10000 100000 1000000]

Each size runs in a process of its own, whose peak memory is its own: gateways with experts of their
own, one a node, at half their capacity, the autoscaler in the loop over all candidates of such a
cluster. Then the same autoscaler decides alone, and the slowest of its decisions is told.

All of it is one thread and takes a quarter of an hour, most of it the million requests. In parts:

    make bench-simulator ARGS="--nodes 10 100 --requests 10000 100000"    half a minute
    python -m tests.bench.simulate --one 1000 1000000                     one size, as JSON
    python -m tests.bench.simulate --decide 1000                          decisions alone, as JSON
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from cluster.planning.autoscaler import Autoscaler, ScalerState
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Load, Objectives
from cluster.planning.observed import Observed
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from cluster.presets import PRESETS
from cluster.simulator.nodes import NodeSupply
from cluster.simulator.run import Setup, simulate
from cluster.simulator.scaling import Scaling
from cluster.simulator.timing import models
from cluster.simulator.workload import Lengths, poisson
from galerne.topology import LinkTransport, Mode
from tests.bench import roofline_costs as machines
from tests.bench.plots import figure

OUT = Path("bench-out/simulate")
LENGTHS = Lengths(prompt_mean=800, output_mean=200, cv2=0.5)
SHARE = 0.5  # of what all nodes carry
COSTS = machines.calibration(machines.H100, machines.H100, machines.INFINIBAND_400)
NODE_BYTES = 400e9  # more than the model takes, so that no shape is ruled out
DECISIONS_AT = (0.01, 0.1, 0.5, 0.9, 1.2)


def cluster_of(nodes):
    return ClusterShape(
        gateway_nodes=nodes,
        gateway_node_bytes=NODE_BYTES,
        cores_per_node=1,
        transports=frozenset({LinkTransport.LOCAL, LinkTransport.GRPC}),
        shard_nodes=nodes - 1,
        shard_node_bytes=NODE_BYTES,
        max_nodes=nodes,
    )


def all_local(nodes):
    caps = PRESETS[Mode.THROUGHPUT]
    return Candidate(
        mode=Mode.THROUGHPUT,
        transport=LinkTransport.LOCAL,
        gateways=nodes,
        shards=1,
        replicas=1,
        micro_batches=1,
        max_num_seqs=caps.max_num_seqs,
        max_batched_tokens=caps.max_batched_tokens,
        gateway_nodes=nodes,
    )


def load_at(rate):
    return Load(
        requests_per_s=rate,
        prompt_tokens=LENGTHS.prompt_mean,
        output_tokens=LENGTHS.output_mean,
        service_cv2=LENGTHS.cv2,
    )


def create_autoscaler():
    planner = Planner(
        shape=machines.SMALL_4, calibration=COSTS, objectives=Objectives(ttft_p95_s=2.0)
    )
    return Autoscaler(ScalerConfig(), planner)


def capacity(nodes):
    planner = create_autoscaler().planner
    return planner.predict(all_local(nodes), load_at(0.0)).max_requests_per_s


def run_size(nodes, requests):
    """One run; its figures."""
    rate = SHARE * capacity(nodes)
    scaling = Scaling(
        autoscaler=create_autoscaler(),
        cluster=cluster_of(nodes),
        supply=NodeSupply(at_start=nodes, most=nodes),
        change_s=lambda old, new: 20.0,
    )
    setup = Setup(
        model_of=models(machines.SMALL_4, COSTS), start=all_local(nodes), seconds=requests / rate
    )
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    result = simulate(poisson(rate, LENGTHS, requests / rate, 1), setup, scaling)
    return {
        "nodes": nodes,
        "requests": result.num_arrivals,
        "answered": result.latencies.completion_s.count,
        "simulated_s": requests / rate,
        "wall_s": time.monotonic() - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ticks": len(result.samples),
        "changes": len(result.commits),
    }


def decisions(nodes):
    """Seconds of decisions at several loads, with and without a queue."""
    autoscaler, current = create_autoscaler(), all_local(nodes)
    most = capacity(nodes)
    times, num_candidates = [], 0
    for share in DECISIONS_AT:
        for waiting in (0, 100 * nodes):
            load = load_at(share * most)
            observed = Observed(
                at_s=0.0,
                load=load,
                upper=replace(load, requests_per_s=1.1 * load.requests_per_s),
                recent_requests_per_s=load.requests_per_s,
                latest_requests_per_s=load.requests_per_s,
                waiting=waiting,
                running=nodes,
                idle_s=0.0,
                ttft_p95_s=None,
                inter_token_p95_s=None,
                num_arrivals=1000,
                is_settled=True,
            )
            state = ScalerState(
                current=current, observed=observed, cluster=cluster_of(nodes), num_nodes=nodes
            )
            began_s = time.monotonic()
            found = autoscaler.decide(1e6, state)
            times.append(time.monotonic() - began_s)
            num_candidates = max(num_candidates, found.num_candidates)
    return {
        "nodes": nodes,
        "candidates": num_candidates,
        "median_s": statistics.median(times),
        "slowest_s": max(times),
    }


def apart(*arguments):
    """This module in a process of its own; the JSON that it prints."""
    command = [sys.executable, "-m", "tests.bench.simulate", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def tables(runs, decided):
    yield "| nodes | requests | simulated | wall | us a request | peak | decisions, changes |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for r in runs:
        each_us = 1e6 * r["wall_s"] / r["requests"]
        cells = (f"{r['nodes']:,}", f"{r['requests']:,}", f"{r['simulated_s']:,.0f} s")
        cells += (f"{r['wall_s']:.1f} s", f"{each_us:.0f}", f"{r['peak_bytes'] / 2**20:.0f} MiB")
        yield f"| {' | '.join(cells)} | {r['ticks']}, {r['changes']} |"
    yield ""
    yield "| nodes | candidates | a decision, median | slowest |"
    yield "|---:|---:|---:|---:|"
    for d in decided:
        times = f"{d['median_s']:.3f} s | {d['slowest_s']:.3f} s"
        yield f"| {d['nodes']:,} | {d['candidates']} | {times} |"


def plot(runs, decided):
    with figure(OUT, columns=2, size=(10, 4)) as (left, right):
        for nodes in dict.fromkeys(r["nodes"] for r in runs):
            own = [r for r in runs if r["nodes"] == nodes]
            xs, ys = [r["requests"] for r in own], [r["wall_s"] for r in own]
            left.plot(xs, ys, "o-", label=f"{nodes} nodes")
        left.set(xscale="log", yscale="log", xlabel="requests", ylabel="wall, s")
        left.legend(fontsize=8)
        sizes = [d["nodes"] for d in decided]
        right.plot(sizes, [d["slowest_s"] for d in decided], "o-", label="slowest")
        right.plot(sizes, [d["median_s"] for d in decided], "o-", label="median")
        right.axhline(1.0, color="grey", linestyle=":")
        right.set(xscale="log", yscale="log", xlabel="nodes", ylabel="a decision, s")
        right.legend(fontsize=8)


def sizes_of(arguments):
    """All numbers of nodes with the middle number of requests, and the most nodes with all."""
    middle = sorted(arguments.requests)[len(arguments.requests) // 2]
    pairs = {(nodes, middle) for nodes in arguments.nodes}
    return sorted(pairs | {(max(arguments.nodes), requests) for requests in arguments.requests})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=int, nargs=2, help="NODES REQUESTS: one run, as JSON")
    parser.add_argument("--decide", type=int, help="NODES: decisions alone, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_size(*arguments.one)))
        return
    if arguments.decide:
        print(json.dumps(decisions(arguments.decide)))
        return
    runs = []
    for nodes, requests in sizes_of(arguments):
        runs.append(apart("--one", nodes, requests))
        print(f"{nodes} nodes, {requests} requests: {runs[-1]['wall_s']:.1f} s", flush=True)
    decided = [apart("--decide", nodes) for nodes in arguments.nodes]
    plot(runs, decided)
    OUT.with_suffix(".json").write_text(json.dumps({"runs": runs, "decisions": decided}, indent=1))
    print("\n".join(tables(runs, decided)))


if __name__ == "__main__":
    main()
