"""On the head of a Ray cluster: an actor with ``NodeRequests`` in it, as the controller has them.

Every line of input is a command (``ask G S``, ``give_up``, ``crash``, ``occupy``, ``vacate``,
``state``); every line of output is what there is after it, as JSON.
"""

import asyncio
import json
import os
import sys

import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


class Part:
    """What a shard claims."""


def occupy():
    """A part on one of the nodes for shards."""
    home = next(node.id for node in alive_nodes() if node.role is Role.SHARD)
    affinity = NodeAffinitySchedulingStrategy(home, soft=True)
    part = ray.remote(Part).options(num_cpus=0.1, scheduling_strategy=affinity).remote()
    ray.get(part.__ray_ready__.remote(), timeout=60)
    return part


def state(actor):
    """What the actor says, and what Ray and its autoscaler do."""
    reply = GetClusterStatusReply()
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    resources = reply.cluster_resource_state
    table = ray.util.placement_group_table().values()
    return {
        **ray.get(actor.state.remote(), timeout=60),
        "roles": sorted(node.role.value for node in alive_nodes() if node.role is not None),
        "busy": sum(
            node.status == NodeStatus.RUNNING and node.ray_node_type_name == Role.SHARD.value
            for node in resources.node_states
        ),
        "groups": [group["state"] for group in table if group["state"] != "REMOVED"],
        "demands": len(resources.pending_gang_resource_requests),
        "infeasible": len(reply.autoscaling_state.infeasible_gang_resource_requests),
    }


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints what it thinks of crashes
    ray.init("auto", namespace="galerne", log_to_driver=False, logging_level="ERROR")
    kinds = [NodeKind(role=role, most=2, cores=1, memory_bytes=1e9) for role in Role]
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(Asking).options(**options).remote(kinds)
    parts = []
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "occupy":
            parts.append(occupy())
        elif command == "vacate":
            ray.kill(parts.pop())
        elif command == "crash":
            actor.crash.options(max_task_retries=0).remote()
        elif command != "state":
            ray.get(getattr(actor, command).remote(*arguments), timeout=60)
        print(json.dumps(state(actor)), file=answers, flush=True)


if __name__ == "__main__":
    main()
