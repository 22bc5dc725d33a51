"""``make sizing``: how many machines Mistral Small 4 wants, as the planner sees it, as a table.

    python -m tests.bench.sizing [--write]

For each kind of machine the smallest cluster that holds the model, and the smallest that carries
each load within the promised times. Costs of machines are those of ``roofline_costs``: from what
makers say, not measured; `galerne doctor` and `galerne what-if` say it for machines that are there.
With --write the table goes to deploy/operations.md.
"""

import argparse
from dataclasses import dataclass, replace

from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Demand, Load, Objectives
from cluster.planning.planner import Planner
from cluster.planning.shape import shape_of
from galerne.topology import LinkTransport
from galerne.units import size_text
from shards.checkpoint.presets import preset
from shards.kernels.formats import WeightFormat
from tests.bench import roofline_costs as machines
from tests.bench.marked import OPERATIONS, write

PROMPT, OUTPUT = 800, 200  # tokens
RATES = (0.0, 0.1, 0.3)  # requests/s; 0: a chat now and then
PROMISED = Objectives(ttft_p95_s=10.0, inter_token_p95_s=0.5)
MOST_NODES = 16
FORMATS = (WeightFormat.BF16, WeightFormat.INT8, WeightFormat.INT4)


@dataclass(frozen=True)
class Kind:
    """A CPU server, with a shard of one thread on each core."""

    costs: machines.Machine
    memory_bytes: float

    def __str__(self):
        cores, speed = self.costs.num_workers, self.costs.bytes_per_s / 1e9
        return f"{cores} cores, {self.memory_bytes / 1e9:.0f} GB, {speed:.0f} GB/s"

    def cluster(self, num_nodes):
        """So many of them, each for gateways, for shards, or for both."""
        return ClusterShape(
            gateway_nodes=num_nodes,
            gateway_node_bytes=self.memory_bytes,
            cores_per_node=self.costs.num_workers,
            transports=frozenset({LinkTransport.GRPC}),
            shard_nodes=num_nodes,
            shard_node_bytes=self.memory_bytes,
            max_nodes=num_nodes,
        )


KINDS = (
    Kind(replace(machines.CPU_SERVER, num_workers=16), 256e9),
    Kind(machines.Machine(460e9, 18e12, num_workers=64, launch_s=1e-5), 512e9),
)


def shape_with(held):
    return shape_of(preset("full-layer", num_layers=36), held, held)


def smallest(kind, held, rate):
    """What is best in the smallest cluster that keeps all limits, or None."""
    shape = shape_with(held)
    costs = machines.calibration(kind.costs, kind.costs, machines.ETHERNET_25, shape)
    load = Load(requests_per_s=rate, prompt_tokens=PROMPT, output_tokens=OUTPUT)
    objectives = PROMISED if rate else Objectives()
    planner = Planner(shape=shape, calibration=costs, objectives=objectives)
    for num_nodes in range(1, MOST_NODES + 1):
        found = planner.plan(kind.cluster(num_nodes), Demand(load)).chosen
        if found is not None:
            return found
    return None


def row(kind, held, rate):
    found = smallest(kind, held, rate)
    asked = f"{rate:g}/s" if rate else "now and then"
    if found is None:
        return f"| {kind} | {held.label} | {asked} | more than {MOST_NODES} | | | | |"
    c, p = found.candidate, found.prediction
    times = f"{p.ttft_p95_s:.1f} s | {p.inter_token_p95_s * 1e3:.0f} ms"
    memory = f"{size_text(int(p.gateway_bytes))} | {size_text(int(p.shard_bytes))}"
    nodes = f"{c.gateway_nodes} + {c.shard_nodes}, {c.gateways} gw, {c.shards} sh"
    return f"| {kind} | {held.label} | {asked} | {nodes} | {memory} | {times} |"


def table():
    yield (
        f"Requests of {PROMPT} + {OUTPUT} tokens over 25 GbE. Promised, where a rate is given: "
        f"TTFT p95 {PROMISED.ttft_p95_s:g} s, inter-token p95 "
        f"{PROMISED.inter_token_p95_s * 1e3:g} ms."
    )
    yield ""
    yield (
        "| machine | weights | load | machines: gateway + shards, parts | a gateway takes | "
        "a shard | TTFT p95 | inter-token p95 |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for kind in KINDS:
        for held in FORMATS:
            for rate in RATES:
                yield row(kind, held, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    arguments = parser.parse_args()
    text = "\n".join(table())
    if arguments.write:
        write(OPERATIONS, "sizing", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
