"""On the head of a Ray cluster: an actor with ``NodeRequests`` in it, as the controller has them.

Every line of input is a command (``ask G S``, ``give_up``, ``crash``, ``state``); every line of
output is what there is after it, as JSON.
"""

import asyncio
import json
import os
import sys

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from cluster.actors.ray_groups import RayGroups
from cluster.control.events import EventLog
from cluster.control.node_requests import NodeRequests
from cluster.node_kinds import NodeKind
from cluster.nodes import Role, alive_nodes

PREFIX = "galerne-test-nodes"


class Asking:
    """The part of a controller that asks for nodes."""

    def __init__(self, kinds):
        self._requests = NodeRequests(PREFIX, RayGroups(PREFIX), kinds, EventLog())
        self._loop = asyncio.ensure_future(self._requests.run())

    async def ask(self, gateway_nodes, shard_nodes):
        self._requests.ask(int(gateway_nodes), int(shard_nodes))

    async def give_up(self):
        self._requests.give_up()

    async def crash(self):
        os._exit(1)

    async def state(self):
        return {"pid": os.getpid(), "pending": self._requests.num_pending}


def state(actor):
    """What the actor says, and what Ray does."""
    table = ray.util.placement_group_table().values()
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    demands = status.resource_demands.placement_group_demand
    return {
        **ray.get(actor.state.remote(), timeout=60),
        "roles": sorted(n.role.value for n in alive_nodes() if n.role is not None),
        "groups": [g["state"] for g in table if g["state"] != "REMOVED"],
        "demands": sum(count.count for d in demands for count in d.bundles_by_count),
    }


def main():
    ray.init("auto", namespace="galerne", log_to_driver=False, logging_level="ERROR")
    kinds = [NodeKind(role=role, most=2, cores=1, memory_bytes=1e9) for role in Role]
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(Asking).options(**options).remote(kinds)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "crash":
            actor.crash.options(max_task_retries=0).remote()
        elif command != "state":
            ray.get(getattr(actor, command).remote(*arguments), timeout=60)
        print(json.dumps(state(actor)), flush=True)


if __name__ == "__main__":
    main()
