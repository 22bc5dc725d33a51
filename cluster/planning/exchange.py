"""Seconds of one layer's exchange: messages, wires, and the shards at its other end. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration, LinkCosts, NodeCosts
from cluster.planning.shape import ModelShape
from cluster.planning.spread import Spread, fullest, sliced_spread, spread
from galerne.topology import LinkTransport


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One micro-batch of one layer, from the gate's choice to the combined answer; seconds."""

    gateway_s: float  # the gateway's own time: packing, sending, taking in
    wire_s: float  # its link is busy, both ways
    latency_s: float  # nobody's time
    service_s: float  # until the last shard has computed, none else waiting there
    peer_service_s: float  # by how much another gateway's frame ahead in the queue delays it


def round_trip(
    shape: ModelShape,
    calibration: Calibration,
    candidate: Candidate,
    tokens: float,
    *,
    has_peers: bool = True,
) -> RoundTrip:
    """What ``tokens`` of one micro-batch cost where nothing overlaps.

    Without peers ``peer_service_s`` is 0.

    Raises:
        ValueError: The calibration lacks a link that the candidate needs.
    """
    parts = _links(calibration, candidate)
    spread_of = sliced_spread if candidate.is_sliced else spread
    frame = spread_of(shape, candidate.shards, candidate.replicas, tokens)
    moved = (frame.sent_tokens + frame.answers) * shape.row_bytes
    shard_s = max(link.shard_s for link, _ in parts)
    service_s = _service(shape, calibration, candidate, frame, shard_s)
    peer_service_s = 0.0
    if has_peers:
        twice = spread_of(shape, candidate.shards, candidate.replicas, 2 * tokens)
        merged_s = _service(shape, calibration, candidate, twice, shard_s) - service_s
        # Shards merge queued frames of one layer only; gateways are at any of the layers.
        same_layer = 1 / shape.num_layers
        peer_service_s = (1 - same_layer) * service_s + same_layer * merged_s
        # With more gateways than shards the shard's own link is the queue.
        shard_wire_s = moved / candidate.shards / min(link.bytes_per_s for link, _ in parts)
        peer_service_s = max(peer_service_s, shard_wire_s)
    return RoundTrip(
        gateway_s=sum(part * frame.num_messages * link.gateway_s for link, part in parts),
        wire_s=sum(part * moved / link.bytes_per_s for link, part in parts),
        latency_s=max(link.latency_s for link, _ in parts),
        service_s=service_s,
        peer_service_s=peer_service_s,
    )


def queued_service(trip: RoundTrip, think_s: float, frames: float) -> float:
    """Seconds at a shard where ``frames`` of other gateways circulate, queueing included.

    Every other frame is away from the shard for ``think_s`` and then comes back, so that
    R = D + n·D'·R/(Z + R): an arrival finds the others in proportion to the time they spend there
    (Schweitzer's mean value analysis of a closed network, 1979); solved for R.
    """
    excess = think_s - trip.service_s - frames * trip.peer_service_s
    # Both forms are the same root; this choice of form subtracts no nearly equal numbers.
    root = math.sqrt(excess * excess + 4 * trip.service_s * think_s)
    if excess <= 0:
        return (root - excess) / 2
    return 2 * trip.service_s * think_s / (root + excess)


def num_machines(candidate: Candidate) -> int:
    """Machines that hold shards."""
    return min(candidate.shard_nodes or candidate.gateway_nodes, candidate.shards)


def _links(calibration: Calibration, candidate: Candidate) -> list[tuple[LinkCosts, float]]:
    """Links of a gateway, and the part of its shards that each leads to."""
    near = 1.0  # gRPC and, where it is planned with, NCCL go to all of them
    if candidate.transport is LinkTransport.SHM:  # and gRPC to the shards of other hosts
        near = 0.0 if candidate.shard_nodes else 1 / candidate.gateway_nodes
    wanted = [(candidate.transport, near)]
    if near < 1:
        wanted.append((LinkTransport.GRPC, 1 - near))
    missing = [t.value for t, part in wanted if part and t not in calibration.links]
    if missing:
        raise ValueError(f"the calibration has no link {missing[0]}")
    return [(calibration.links[transport], part) for transport, part in wanted if part]


def _service(
    shape: ModelShape,
    calibration: Calibration,
    candidate: Candidate,
    frame: Spread,
    shard_s: float,
) -> float:
    """Seconds until the last shard has computed a frame.

    The fullest shard alone; or, where a machine has more shards than workers, all its work in
    turns; and never faster than the machine's memory allows them all together. A GPU is a machine
    with one shard.
    """
    # Shards beside a gateway on a GPU compute as shards do elsewhere.
    is_apart = candidate.shard_nodes > 0 or calibration.gateway.is_gpu
    costs: NodeCosts = calibration.shard if is_apart else calibration.gateway
    machines = candidate.shards if costs.is_gpu else num_machines(candidate)
    if machines == candidate.shards:
        touched = frame.fullest
    elif candidate.is_sliced:
        touched = frame.touched / machines
    else:
        touched = fullest(frame.touched, shape.num_experts, machines, candidate.replicas)
    rows = frame.rows * touched / frame.touched if frame.touched else 0.0
    one, whole = costs.shard_experts, costs.experts
    last_s = shard_s + one.seconds(frame.fullest, frame.fullest_rows)
    bound_s = whole.per_expert_s * touched + whole.per_row_s * rows
    turns_s = 0.0
    if math.ceil(candidate.shards / machines) > costs.num_workers:
        calls = frame.num_messages / machines
        work_s = calls * (shard_s + one.fixed_s) + one.per_expert_s * touched
        turns_s = (work_s + one.per_row_s * rows) / costs.num_workers
    return max(last_s, turns_s, bound_s)
