"""``make bench-regret``: every static shape and the choice of ``auto``, under loads of which each
wants another shape.

    python -m tests.bench.regret host [--rounds 3] [--seconds 5] [--live] [--model DIR]
    python -m tests.bench.regret hosts [--mbit 1000 100]
    python -m tests.bench.regret simulated [--sites mixed threads gpus]

``host``: this machine, experts in the gateway or in shards. ``hosts``: three network namespaces as
machines of one core, with limited links. ``simulated``: machines that are not here. Shapes are
interleaved, medians of the rounds compared. ``auto`` is what the planner chooses from a fresh
calibration; with ``--live`` it is the autoscaler of the same server, measured after it has had
``--settle-s`` of the load.
"""

import argparse
import json
import time
from pathlib import Path

import grpc
import psutil

from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Objectives
from galerne.topology import LinkTransport
from tests.bench import regret_report
from tests.bench.calibrating import Calibrator, candidate_of, name_of, wish_of
from tests.bench.regret_loads import HOST_SHAPES, choose, loads_of, measure
from tests.bench.served import Served

OUT = Path("bench-out")
_CHANGE_S = 120


def set_shape(served, **wish):
    """Change the topology, also while the autoscaler is at it."""
    deadline_s = time.monotonic() + _CHANGE_S
    while True:
        try:
            served.change(**wish)
        except grpc.RpcError as error:
            is_busy = error.code() is grpc.StatusCode.FAILED_PRECONDITION
            if not is_busy or time.monotonic() > deadline_s:
                raise
        else:
            return
        time.sleep(0.5)


def measure_shapes(served, shapes, loads, arguments, seed, **where):
    """name -> load -> what was measured, once; of loads that a shape is not meant for, nothing."""
    found = {}
    for candidate, wanted in shapes:
        name = name_of(candidate)
        set_shape(served, **wish_of(candidate))
        served.wait_well()
        found[name] = {
            load.name: measure(served.grpc, load, arguments.seconds, seed, **where)
            for load in loads
            if wanted is None or load.name in wanted
        }
        print(f"  {name}", flush=True)
    return found


def measure_live(served, loads, arguments, seed, **where):
    """load -> what the autoscaler gave, and the shape it had then."""
    set_shape(served, mode="auto")
    found = {}
    for load in loads:
        one = measure(served.grpc, load, arguments.seconds, seed, arguments.settle_s, **where)
        found[load.name] = one | {"choice": name_of(candidate_of(served.topology()))}
    return found


def run(served, shapes, loads, chosen, arguments, **where):
    """(static medians by shape and load, auto's by load)."""
    static, live = {}, {}
    # What auto chooses and nobody else: measured like the rest, for the loads it is chosen for.
    own, names = {}, {name_of(candidate) for candidate in shapes}
    for load, choice in chosen.items():
        if choice["name"] not in names and not arguments.live:
            own.setdefault(choice["candidate"], set()).add(load)
    everyone = [*((candidate, None) for candidate in shapes), *own.items()]
    for number in range(arguments.rounds):
        print(f"round {number + 1}", flush=True)
        turned = everyone[number % len(everyone) :] + everyone[: number % len(everyone)]
        once = measure_shapes(served, turned, loads, arguments, 1 + number, **where)
        for name, by_load in once.items():
            for load, row in by_load.items():
                static.setdefault(name, {}).setdefault(load, []).append(row)
        if arguments.live:
            for load, row in measure_live(served, loads, arguments, 1 + number, **where).items():
                live.setdefault(load, []).append(row)
    middle = {
        name: {load: regret_report.medians(rows) for load, rows in by_load.items()}
        for name, by_load in static.items()
    }
    if arguments.live:
        auto = {
            load: regret_report.medians(rows)
            | {"choice": " / ".join(dict.fromkeys(row["choice"] for row in rows))}
            for load, rows in live.items()
        }
    else:
        choices = {load: choice["name"] for load, choice in chosen.items()}
        auto = {load: middle[name][load] | {"choice": name} for load, name in choices.items()}
    return {name: by_load for name, by_load in middle.items() if name in names}, auto


def finish(static, auto, chosen, stem, title):
    """Print, write and plot."""
    judged = regret_report.judge(static, auto)
    lines = [*regret_report.table(static, judged), "", "the planner, by load:"]
    for load, choice in chosen.items():
        lines.append(
            f"  {load}, taken for {choice['requests_per_s']:.2f} requests/s: "
            f"{choice['name']}; {choice['sensitivity']}"
        )
    plain = {
        load: {key: value for key, value in choice.items() if key != "candidate"}
        for load, choice in chosen.items()
    }
    regret_report.plot(static, judged, stem, title)
    told = {"static": static, "auto": judged, "planner": plain}
    stem.with_suffix(".json").write_text(json.dumps(regret_report.finite(told), indent=1))
    print(f"{title}\n" + "\n".join(lines), flush=True)


def run_host(arguments):
    calibrator = Calibrator(arguments.model, arguments.budget_s)
    calibration = calibrator.measure().calibration
    memory = float(psutil.virtual_memory().total)
    cluster = ClusterShape(
        gateway_nodes=1,
        gateway_node_bytes=memory,
        cores_per_node=len(psutil.Process().cpu_affinity()),
        transports=frozenset({LinkTransport.LOCAL, LinkTransport.SHM}),
    )
    loads = loads_of(arguments)
    shapes = HOST_SHAPES if arguments.shapes is None else HOST_SHAPES[: arguments.shapes]
    chosen = choose(calibrator.shape, calibration, cluster, Objectives(), loads, shapes)
    served = Served(
        "--max-model-len", "4096", *(("--model", arguments.model) if arguments.model else ())
    )
    try:
        static, auto = run(served, shapes, loads, chosen, arguments)
    finally:
        served.close()
    name = "regret-host" + (f"-{Path(arguments.model).name}" if arguments.model else "")
    finish(static, auto, chosen, OUT / name, "this host")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", nargs="*", help="host, hosts, simulated; unset: all of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load at each shape")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--rates", type=float, nargs=3, default=[1, 6, 24], help="low steady burst")
    parser.add_argument("--shapes", type=int, help="only the first so many")
    parser.add_argument("--live", action="store_true", help="auto is the server's autoscaler")
    parser.add_argument("--settle-s", type=float, default=30.0, help="of a load, before --live")
    parser.add_argument("--budget-s", type=float, default=20.0, help="of the calibration")
    parser.add_argument("--mbit", type=int, nargs="+", default=[1000, 100], help="of hosts")
    parser.add_argument(
        "--sites", nargs="+", default=["mixed", "threads", "gpus"], help="of simulated"
    )
    parser.add_argument("--simulated-s", type=float, default=1800.0, help="of each load")
    parser.add_argument("--node-weight", type=float, default=0.0, help="of hosts and simulated")
    parser.add_argument("--change-s", type=float, default=20.0, help="of a simulated change")
    parser.add_argument("--seed", type=int, default=1, help="of a simulated load")
    parser.add_argument(
        "--loads", nargs="+", default=["low", "steady", "high", "burst"], help="simulated ones"
    )
    parser.add_argument(
        "--foresight", action="store_true", help="simulate, too, who knows the load beforehand"
    )
    parser.add_argument("--model", help="a checkpoint; unset: the embedded model")
    arguments = parser.parse_args()
    from tests.bench.regret_hosts import run_hosts  # they import this module
    from tests.bench.regret_simulated import run_simulated

    runs = {"host": run_host, "hosts": run_hosts, "simulated": run_simulated}
    wanted = arguments.where or list(runs)
    if unknown := set(wanted) - set(runs):
        parser.error(f"where: one of {', '.join(runs)}, not {', '.join(unknown)}")
    for name in wanted:
        runs[name](arguments)


if __name__ == "__main__":
    main()
