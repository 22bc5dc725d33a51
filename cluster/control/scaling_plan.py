"""What the autoscaler decides by: sizes, costs, promises, patience, machines. Plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.node_kinds import NodeKind, cluster_shape
from cluster.nodes import Node
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.planner import Planner
from cluster.planning.scaler_config import ScalerConfig
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from router.api.cluster_port import TopologyWish


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """Made by the driver from settings and a calibration; the controller decides with it."""

    planner: Planner
    config: ScalerConfig
    cluster: ClusterShape  # machines that there are at the start
    kinds: tuple[NodeKind, ...] = ()  # machines that may be asked for
    tick_s: float = 5.0  # between decisions
    window_s: float = 60.0  # of observation

    def shape_of(self, nodes: Sequence[Node]) -> ClusterShape:
        """Machines to decide for: those of Ray now, and those that may come.

        Of a single host it is not Ray who knows cores and memory, and nothing changes.
        """
        if not self.kinds and len(nodes) <= 1:
            return self.cluster
        try:
            return self._cluster_of(nodes, self.kinds)
        except ValueError:  # nodes are away, or not seen yet
            return self.cluster

    def on(self, nodes: Sequence[Node]) -> ScalingPlan:
        """The same where these nodes are there.

        Raises:
            ConfigError: No gateway can be on any, or nothing says what nodes to come will have.
        """
        try:
            self._cluster_of(nodes, self.kinds)
            return replace(self, cluster=self._cluster_of(nodes, ()))
        except ValueError as error:
            raise ConfigError("nodes", len(nodes), str(error)) from error

    def with_cache(self, num_bytes: int) -> ScalingPlan:
        """Where every gateway on a GPU has made its cache, which stays as large in any topology."""
        memory = self.cluster.gpu_memory
        if memory is None:
            return self
        return replace(self, cluster=replace(self.cluster, gpu_memory=memory.with_cache(num_bytes)))

    def _cluster_of(self, nodes: Sequence[Node], kinds: Sequence[NodeKind]) -> ClusterShape:
        return cluster_shape(
            nodes,
            kinds,
            calibrated=self.planner.calibration.links,
            gpu_use=self.cluster.gpu_use,
            trusts_network=self.cluster.trusts_network,
        )


def candidate_of(topology: Topology, gateway_nodes: int, shard_nodes: int) -> Candidate:
    """What serves, as the planner calls it. ``shard_nodes``: those without a gateway."""
    is_local = topology.transport is LinkTransport.LOCAL
    return Candidate(
        mode=topology.mode,
        transport=topology.transport,
        gateways=len(topology.gateways),
        shards=1 if is_local else len(topology.shards),
        replicas=1 if is_local else topology.placement.num_replicas,
        micro_batches=topology.num_micro_batches,
        max_num_seqs=topology.max_num_seqs,
        max_batched_tokens=topology.max_batched_tokens,
        gateway_nodes=gateway_nodes,
        shard_nodes=shard_nodes,
    )


def wish_of(candidate: Candidate) -> TopologyWish:
    """What to ask for, so that the candidate serves.

    Raises:
        ValueError: Its experts are sliced, which is no topology of the running numerics profile.
    """
    if candidate.is_sliced:
        raise ValueError("sliced experts are for the simulator: no cluster is switched to them")
    is_local = candidate.transport is LinkTransport.LOCAL
    return TopologyWish(
        mode=candidate.mode.value,
        transport=candidate.transport.value,
        gateways=candidate.gateways,
        shards=None if is_local else candidate.shards,
        replicas=None if is_local else candidate.replicas,
        micro_batches=candidate.micro_batches,
        max_num_seqs=candidate.max_num_seqs,
        max_batched_tokens=candidate.max_batched_tokens,
    )
