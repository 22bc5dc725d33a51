"""What the autoscaler decides by: sizes, costs, promises, patience, machines. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from cluster.planning.assess import Limits
from cluster.planning.autoscaler import Autoscaler
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.costs import Calibration
from cluster.planning.enumerate import candidates
from cluster.planning.predict import predict
from cluster.planning.scaler_config import ScalerConfig
from cluster.planning.shape import ModelShape
from galerne.topology import LinkTransport, Topology
from router.api.cluster_port import TopologyWish


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """Made by the driver from settings and a calibration; the controller decides with it."""

    shape: ModelShape
    calibration: Calibration
    limits: Limits
    config: ScalerConfig
    cluster: ClusterShape  # machines that there are, or that may be asked for
    tick_s: float = 5.0  # between decisions
    window_s: float = 60.0  # of observation

    def autoscaler(self) -> Autoscaler:
        """Chooses among all that the machines allow."""
        return Autoscaler(
            self.config,
            self.limits,
            candidates(self.shape, self.cluster, self.limits.objectives),
            partial(predict, self.shape, self.calibration),
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
    """What to ask for, so that the candidate serves."""
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
