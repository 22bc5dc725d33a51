"""The candidates worth a prediction: every mode, and sizes in geometric progression. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.load import Objectives
from cluster.planning.shape import ModelShape
from cluster.presets import PRESETS
from galerne.topology import LinkTransport, Mode

_MAX_MICRO_BATCHES = 3
_COARSE_FROM = 8  # gateways or shards
_CAP_FACTORS = (0.5, 1, 2)  # around a mode's preset


@dataclass(frozen=True, slots=True)
class _Layout:
    """A candidate without mode, micro-batches and caps."""

    transport: LinkTransport
    gateways: int
    shards: int = 1
    replicas: int = 1
    shard_nodes: int = 0


def sliced(whole: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates with as many slices of all experts instead of shards with some of them.

    Not among ``candidates``: they are another numerics profile, which no live cluster changes.
    """
    for candidate in whole:
        if candidate.transport is not LinkTransport.LOCAL and candidate.shards > candidate.replicas:
            yield replace(candidate, is_sliced=True)


def candidates(
    shape: ModelShape, cluster: ClusterShape, objectives: Objectives, mode: Mode | None = None
) -> list[Candidate]:
    """Candidates that the machines allow, in a fixed order; of one mode, or of both.

    One gateway a machine: it uses all its cores. The list grows with the logarithm of the cluster:
    shards and gateways grow by factors (``finer`` looks between). Micro-batches are more than 1
    only where shards have cores of their own, and never in latency mode (design, sections 6, 7).
    Shards that compute on GPUs take one each; only those are linked by NCCL.
    """
    layouts = list(_layouts(shape, cluster, objectives))
    modes = tuple(Mode) if mode is None else (mode,)
    return [
        Candidate(
            mode=chosen,
            transport=layout.transport,
            gateways=layout.gateways,
            gateway_nodes=layout.gateways,
            shards=layout.shards,
            replicas=layout.replicas,
            shard_nodes=layout.shard_nodes,
            micro_batches=micro_batches,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
        )
        for layout in layouts
        for chosen in modes
        for micro_batches in _micro_batches(layout, cluster, chosen)
        for max_num_seqs, max_batched_tokens in _caps(chosen)
    ]


def gateway_counts(candidate: Candidate, cluster: ClusterShape) -> range:
    """Numbers of gateways that the machines allow the candidate, all else being as it is."""
    most = min(cluster.num_nodes - candidate.shard_nodes, cluster.gateway_nodes)
    if candidate.transport is LinkTransport.LOCAL or candidate.shard_nodes:
        return range(1, most + 1)
    fewest = ceil(candidate.shards / max(cluster.shards_beside, 1))
    return range(fewest, min(most, candidate.shards) + 1)


def finer(candidate: Candidate, gateways: int) -> Candidate:
    """The candidate with another number of gateways: the list has gaps between them."""
    return replace(candidate, gateways=gateways, gateway_nodes=gateways)


def _layouts(shape: ModelShape, cluster: ClusterShape, objectives: Objectives) -> Iterator[_Layout]:
    all_replicas = sorted({1, objectives.min_copies, objectives.min_copies + 1})
    for gateways in _growing(1, cluster.gateway_nodes):
        if LinkTransport.LOCAL in cluster.transports:
            yield _Layout(LinkTransport.LOCAL, gateways)
        yield from _beside(shape, cluster, gateways, all_replicas)
        yield from _apart(shape, cluster, gateways, all_replicas)


def _beside(
    shape: ModelShape, cluster: ClusterShape, gateways: int, all_replicas: list[int]
) -> Iterator[_Layout]:
    """Shards on the gateways' machines."""
    most = min(shape.num_experts, gateways * cluster.shards_beside)
    # From two on: one shard beside the gateway is the local form with a wire in between.
    for shards in _growing(max(2, gateways), most):
        for replicas in _fitting(all_replicas, shards):
            for transport in _near_transports(cluster, gateways):
                yield _Layout(transport, gateways, shards, replicas)
            if _has_nccl(cluster, leaves_host=gateways > 1):
                yield _Layout(LinkTransport.NCCL, gateways, shards, replicas)


def _apart(
    shape: ModelShape, cluster: ClusterShape, gateways: int, all_replicas: list[int]
) -> Iterator[_Layout]:
    """Shards on machines of their own."""
    if LinkTransport.GRPC not in cluster.transports:
        return
    spare = min(cluster.shard_nodes, cluster.num_nodes - gateways)
    most = min(shape.num_experts, spare * cluster.shards_apart)
    for shards in _growing(1, most):
        for replicas in _fitting(all_replicas, shards):
            for nodes in _shard_nodes(shards, spare, cluster.shards_apart):
                yield _Layout(LinkTransport.GRPC, gateways, shards, replicas, nodes)
                if _has_nccl(cluster, leaves_host=True):
                    yield _Layout(LinkTransport.NCCL, gateways, shards, replicas, nodes)


def _near_transports(cluster: ClusterShape, gateways: int) -> Iterator[LinkTransport]:
    """To shards on the gateways' machines. Several machines need gRPC between them besides."""
    has_grpc = LinkTransport.GRPC in cluster.transports
    if LinkTransport.SHM in cluster.transports and (gateways == 1 or has_grpc):
        yield LinkTransport.SHM
    elif has_grpc:
        yield LinkTransport.GRPC


def _has_nccl(cluster: ClusterShape, *, leaves_host: bool) -> bool:
    """Whether all links can go by NCCL: between GPUs, on a network that may see them."""
    is_allowed = cluster.trusts_network or not leaves_host
    return LinkTransport.NCCL in cluster.transports and cluster.shard_gpus > 0 and is_allowed


def _shard_nodes(shards: int, spare: int, most: int) -> list[int]:
    """A machine for every shard, or one for as many as it can hold."""
    return sorted({min(shards, spare), ceil(shards / most)})


def _micro_batches(layout: _Layout, cluster: ClusterShape, mode: Mode) -> range:
    has_own_cores = layout.shard_nodes > 0 or cluster.gateway_gpus > 0
    most = _MAX_MICRO_BATCHES if has_own_cores and mode is Mode.THROUGHPUT else 1
    return range(1, most + 1)


def _caps(mode: Mode) -> Iterator[tuple[int, int]]:
    """Sequences and tokens of a step."""
    preset = PRESETS[mode]
    for factor in _CAP_FACTORS:
        yield int(preset.max_num_seqs * factor), int(preset.max_batched_tokens * factor)


def largest_caps() -> tuple[int, int]:
    """The most sequences and tokens of a step in any candidate."""
    caps = [caps for mode in Mode for caps in _caps(mode)]
    return max(seqs for seqs, _ in caps), max(tokens for _, tokens in caps)


def _fitting(all_replicas: list[int], shards: int) -> list[int]:
    return [replicas for replicas in all_replicas if replicas <= shards]


def _growing(first: int, last: int) -> list[int]:
    """``first``, then twice as many up to about 8, then four times, and ``last``; none above it."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2 if first < _COARSE_FROM else 4
    return [*sizes, last] if sizes or first == last else []
