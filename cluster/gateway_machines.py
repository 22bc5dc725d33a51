"""The machines that gateways may be placed on, as far as their threads and caches need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.nodes import Node, Role
from shards.cgroup import available_memory
from shards.cores import available_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMachines:
    """So many machines, each at least of this size."""

    number: int
    num_cores: int  # of the one with the fewest
    free_bytes: int  # of the one with the least

    def threads_of_each(self, num_gateways: int) -> int:
        """Threads that each of so many gateways computes with, spread evenly."""
        beside = -(-num_gateways // self.number)
        return max(1, self.num_cores // beside)


def gateway_machines(nodes: Sequence[Node]) -> GatewayMachines:
    """Those of a Ray cluster of several nodes by what Ray knows of them; else this one.

    Where no node may hold a gateway, placing will say so.
    """
    usable = [node for node in nodes if node.num_cpus > 0 and node.role is not Role.SHARD]
    if len(nodes) <= 1 or not usable:
        return GatewayMachines(number=1, num_cores=available_cores(), free_bytes=available_memory())
    labelled = [node for node in usable if node.role is Role.GATEWAY] or usable
    return GatewayMachines(
        number=len(labelled),
        num_cores=min(node.cores for node in labelled),
        free_bytes=int(min(node.memory_bytes for node in labelled)),
    )
