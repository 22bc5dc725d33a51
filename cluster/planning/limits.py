"""What a candidate must not break, with the numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Load, Objectives
from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True)
class Broken:
    """A limit and what a candidate has instead."""

    field: str
    limit: float
    value: float

    def __str__(self) -> str:
        if math.isinf(self.value):
            return f"{self.field}: limit {self.limit:.4g}, load not carried"
        return f"{self.field}: {self.value:.4g}, limit {self.limit:.4g}"


def broken_limits(
    candidate: Candidate,
    prediction: Prediction,
    cluster: ClusterShape,
    objectives: Objectives,
    load: Load,
) -> tuple[Broken, ...]:
    """All limits that the candidate breaks, the hardest first.

    Memory (bytes of a machine), copies, machines, the load (requests/s), times (seconds).
    """
    limits = (
        *_memory(candidate, prediction, cluster),
        *_machines(candidate, cluster, objectives),
        *_objectives(prediction, objectives, load),
    )
    return tuple(limits)


def num_copies(candidate: Candidate, cluster: ClusterShape) -> int:
    """Copies of every expert, counted by machine where the cluster has several."""
    is_one_machine = cluster.num_nodes == 1
    if candidate.transport is LinkTransport.LOCAL:  # every gateway holds all experts
        return candidate.gateways if is_one_machine else candidate.gateway_nodes
    if is_one_machine:
        return candidate.replicas
    return min(candidate.replicas, candidate.shard_nodes or candidate.gateway_nodes)


def _memory(
    candidate: Candidate, prediction: Prediction, cluster: ClusterShape
) -> Iterator[Broken]:
    held = prediction.gateway_bytes * math.ceil(candidate.gateways / candidate.gateway_nodes)
    if candidate.transport is not LinkTransport.LOCAL:
        machines = candidate.shard_nodes or candidate.gateway_nodes
        shards = prediction.shard_bytes * math.ceil(candidate.shards / machines)
        if candidate.shard_nodes:
            if shards > cluster.shard_node_bytes:
                yield Broken("shard_node_bytes", cluster.shard_node_bytes, shards)
        else:
            held += shards
    if held > cluster.gateway_node_bytes:
        yield Broken("gateway_node_bytes", cluster.gateway_node_bytes, held)


def _machines(
    candidate: Candidate, cluster: ClusterShape, objectives: Objectives
) -> Iterator[Broken]:
    copies = num_copies(candidate, cluster)
    if copies < objectives.min_copies:
        yield Broken("min_copies", objectives.min_copies, copies)
    nodes = num_nodes(candidate)
    if objectives.max_nodes is not None and nodes > objectives.max_nodes:
        yield Broken("max_nodes", objectives.max_nodes, nodes)


def _objectives(prediction: Prediction, objectives: Objectives, load: Load) -> Iterator[Broken]:
    if not prediction.is_carried:
        yield Broken("requests_per_s", load.requests_per_s, prediction.max_requests_per_s)
    for field in ("ttft_p95_s", "inter_token_p95_s"):
        limit = getattr(objectives, field)
        value = getattr(prediction, field)
        if limit is not None and value > limit:
            yield Broken(field, limit, value)
