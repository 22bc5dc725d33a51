"""A shape that a cluster could have, and what it would give."""

from __future__ import annotations

from dataclasses import dataclass

from galerne.topology import LinkTransport, Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What ``galerne topology set`` could ask for, and on how many machines."""

    mode: Mode
    transport: LinkTransport
    gateways: int
    shards: int  # 1 with local experts
    replicas: int
    micro_batches: int
    max_num_seqs: int
    max_batched_tokens: int
    gateway_nodes: int = 1
    shard_nodes: int = 0  # 0: shards run on the gateways' machines, on the same cores
    # Every shard holds a slice of every expert. Its answers are partial sums, added in an order of
    # their own: another numerics profile, to which no running cluster is ever switched.
    is_sliced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a candidate gives under a load. Times are infinite where the load is too much."""

    ttft_p50_s: float
    ttft_p95_s: float
    inter_token_p50_s: float
    inter_token_p95_s: float
    completion_s: float  # of a request of mean length, from its arrival
    requests_per_s: float  # answered; the load's if it can be carried
    max_requests_per_s: float  # that it could carry of this mix
    running: float  # sequences in a step, per gateway
    utilisation: float  # of the busiest gateway: load over what it could carry
    gateway_bytes: float  # weights and the KV cache of the running sequences, each, on cores
    shard_bytes: float  # each, on cores
    cache_tokens: float  # of the running sequences, at each gateway
    step_s: float  # of a decode step
    parts_s: dict[str, float]  # of a decode step: layer, attention, experts, exchange, head, step

    @property
    def is_carried(self) -> bool:
        """Whether the load can be served at all."""
        return self.utilisation < 1


def num_nodes(candidate: Candidate | None) -> int:
    """Machines that a candidate takes; none at zero."""
    return 0 if candidate is None else candidate.gateway_nodes + candidate.shard_nodes


def describe(candidate: Candidate | None) -> str:
    """Mode, shape and caps in words."""
    if candidate is None:
        return "zero"
    if candidate.transport is LinkTransport.LOCAL:
        shards = "local experts"
    else:
        part = "slice" if candidate.is_sliced else "shard"
        shards = f"{_count(candidate.shards, part)} x {_count(candidate.replicas, 'replica')}"
        shards += f" over {candidate.transport.value}"
    gateways, nodes = _count(candidate.gateways, "gateway"), num_nodes(candidate)
    caps = f"{candidate.max_num_seqs} sequences, {candidate.max_batched_tokens} tokens a step"
    micro = f", {candidate.micro_batches} micro-batches" if candidate.micro_batches > 1 else ""
    machines = f", {nodes} nodes" if nodes > 1 else ""
    return f"{candidate.mode.value} with {shards}, {gateways}{machines}{micro}, {caps}"


def short(candidate: Candidate | None) -> str:
    """The same for tables, such as ``latency · local · 1g · 8×256``; see ``NAME_LEGEND``.

    Of sliced experts it is ``4/×1`` instead of ``4s×1``: a quarter of each in every shard.
    """
    if candidate is None:
        return "zero"
    parts = [candidate.mode.value, candidate.transport.value]
    if candidate.transport is not LinkTransport.LOCAL:
        kind = "/" if candidate.is_sliced else "s"
        parts[-1] += f" {candidate.shards}{kind}×{candidate.replicas}"
    parts += [
        f"{candidate.gateways}g",
        f"{candidate.max_num_seqs}×{candidate.max_batched_tokens}",
    ]
    if candidate.micro_batches > 1:
        parts.append(f"{candidate.micro_batches}mb")
    if num_nodes(candidate) > 1:
        parts.append(f"{num_nodes(candidate)} nodes")
    return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
