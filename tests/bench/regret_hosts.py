"""Regret on three network namespaces as machines of one core, with limited links.

Two cores exist: the first machine (Ray's head, gateways first, frontends) has core 0, the other two
share core 1 with the client. So two shards of one core each are less than two machines would be,
and the planner, which believes in a core for each machine, may use two of them for gateways.
"""

import contextlib
import os
import pickle
import sys
import tempfile
from dataclasses import replace

import psutil

from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Objectives
from galerne.topology import LinkTransport, Mode
from helpers.ray_hosts import RayHosts
from tests.bench.calibrating import Calibrator
from tests.bench.regret import OUT, finish, run
from tests.bench.regret_loads import choose, loads_of, shape
from tests.bench.served import Client

NUM_HOSTS = 3
CORES = (0, 1, 1)
GATEWAY_HOSTS = 2
CLIENT_CORE = 1
_MOST_S = 3600.0

SHAPES = (
    shape(Mode.LATENCY),
    shape(Mode.THROUGHPUT),
    shape(Mode.THROUGHPUT, gateways=2, gateway_nodes=2),
    shape(Mode.LATENCY, LinkTransport.GRPC, shards=3, shard_nodes=2),
    shape(Mode.THROUGHPUT, LinkTransport.GRPC, shards=2, shard_nodes=1),
    shape(Mode.THROUGHPUT, LinkTransport.GRPC, shards=3, shard_nodes=2),
)


def calibrate(arguments):
    """(model's shape, calibration) of a machine of one core."""
    calibrator = Calibrator(arguments.model, arguments.budget_s)
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORES[0]})  # of what is started from here
    try:
        return calibrator.shape, calibrator.measure().calibration
    finally:
        os.sched_setaffinity(0, usual)


def limited(calibration, mbit):
    """The calibration with gRPC's bandwidth as a link of so many megabits a second gives it."""
    link = calibration.links[LinkTransport.GRPC]
    slower = replace(link, bytes_per_s=min(link.bytes_per_s, mbit * 1e6 / 8))
    return replace(calibration, links={**calibration.links, LinkTransport.GRPC: slower})


def run_hosts(arguments):
    memory = float(psutil.virtual_memory().total) / NUM_HOSTS
    cluster = ClusterShape(
        gateway_nodes=GATEWAY_HOSTS,
        gateway_node_bytes=memory,
        cores_per_node=1,
        transports=frozenset({LinkTransport.LOCAL, LinkTransport.GRPC}),
        shard_nodes=NUM_HOSTS - 1,
        shard_node_bytes=memory,
        max_nodes=NUM_HOSTS,
    )
    loads, objectives = loads_of(arguments), Objectives(node_weight=arguments.node_weight)
    shapes = SHAPES if arguments.shapes is None else SHAPES[: arguments.shapes]
    model, calibration = calibrate(arguments)
    flags = ("--max-model-len", "4096", *(("--model", arguments.model) if arguments.model else ()))
    with RayHosts(NUM_HOSTS, num_cpus=3, cores=CORES) as hosts:
        server = hosts.serve(*flags, timeout=300)
        try:
            for mbit in arguments.mbit:
                for host in hosts.hosts:
                    host.limit(mbit)
                costs = limited(calibration, mbit)
                chosen = choose(model, costs, cluster, objectives, loads, shapes)
                told = (server.grpc, shapes, loads, chosen, arguments)
                static, auto = inside(hosts, told)
                title = f"3 hosts of one core, {mbit / 1000:g} Gbit/s"
                finish(static, auto, chosen, OUT / f"regret-hosts-{mbit}", title)
        finally:
            server.stop()


def inside(hosts, told):
    """``run`` on the first host, from which alone the server is reached."""
    command = ["taskset", "--cpu-list", str(CLIENT_CORE)]
    command += [sys.executable, "-m", "tests.bench.regret_hosts"]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(pickle.dumps(told))
        asked.seek(0)
        process = hosts.hosts[0].popen(command, hosts.env, stdin=asked, stdout=said)
        assert process.wait(_MOST_S) == 0
        said.seek(0)
        return pickle.load(said)


def main():
    """On the first host: what is asked comes pickled, and so goes the answer."""
    address, shapes, loads, chosen, arguments = pickle.load(sys.stdin.buffer)
    client = Client(address)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = run(client, shapes, loads, chosen, arguments)
    finally:
        client.close()
    pickle.dump(found, sys.stdout.buffer)


if __name__ == "__main__":
    main()
