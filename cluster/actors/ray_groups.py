"""Ray's placement groups, as ``NodeRequests`` needs them. A call blocks while Ray's head does."""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from cluster.actors.launch_spec import LaunchSpec
from cluster.control.node_requests import Seen
from cluster.nodes import ROLE_LABEL, Role, alive_nodes, nodes_with_gpus

_CLAIM = {"CPU": 0.01}  # Ray's autoscaler looks for claims; the node's CPUs are for the parts
_SELECTOR = {
    Role.GATEWAY: {ROLE_LABEL: Role.GATEWAY.value},
    Role.SHARD: {ROLE_LABEL: Role.SHARD.value},
    None: {ROLE_LABEL: f"!in({Role.GATEWAY.value}, {Role.SHARD.value})"},
}


class RayGroups:
    """Groups whose names begin with a prefix that no other deployment's do."""

    def __init__(
        self, prefix: str, *, gateway_gpus: bool = False, shard_gpus: bool = False
    ) -> None:
        """``gateway_gpus``, ``shard_gpus``: whether these parts compute on GPUs."""
        self._prefix = prefix
        self._gateway_gpus, self._shard_gpus = gateway_gpus, shard_gpus

    def look(self) -> Seen:
        """Nodes that live, and groups that are there, placed or not."""
        names = {
            group["name"]
            for group in placement_group_table().values()
            if group["state"] != "REMOVED" and group["name"].startswith(self._prefix)
        }
        nodes = nodes_with_gpus(alive_nodes(), gateways=self._gateway_gpus, shards=self._shard_gpus)
        return Seen(nodes, frozenset(names))

    def create(self, name: str, roles: Sequence[Role | None]) -> None:
        """Ask for a node with each of these labels; None: with no role. Returns at once."""
        placement_group(
            [_CLAIM] * len(roles),
            strategy="STRICT_SPREAD",
            name=name,
            bundle_label_selector=[_SELECTOR[role] for role in roles],
        )

    def remove(self, name: str) -> None:
        """Ask no longer; nothing, if there is no such group."""
        try:
            group = get_placement_group(name)
        except ValueError:
            return
        remove_placement_group(group)


def remove_groups(spec: LaunchSpec) -> None:
    """Ask for nothing any more on behalf of a deployment that has ended."""
    groups = RayGroups(spec.groups_name)
    for name in groups.look().groups:
        groups.remove(name)
