"""What a candidate must not break, with the numbers. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, Prediction, num_nodes
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.gpu_memory import Split
from cluster.planning.load import Demand, Load, Objectives, Queue
from galerne.topology import LinkTransport
from galerne.units import seconds_text, size_text

_LATENCIES = ("ttft_p95_s", "inter_token_p95_s")
# Above every broken latency: a queue that grows without end breaks them all.
_NOT_CARRIED = 1e6
# Whoever empties a queue later by less than this factor is told from others by its cost.
_DRAIN_GRAIN = 4.0
_MOST_DRAIN = 1000.0  # times the limit; less than any load that is not carried


class Constraint(enum.StrEnum):
    """What decides: a limit by its field, or a rule of the autoscaler; COST if nothing does."""

    COST = "cost"
    GATEWAY_MEMORY = "gateway_node_bytes"
    SHARD_MEMORY = "shard_node_bytes"
    GATEWAY_GPU_MEMORY = "gateway_gpu_bytes"
    SHARD_GPU_MEMORY = "shard_gpu_bytes"
    CACHE = "kv_memory"  # of a gateway on a GPU, which is made once
    COPIES = "min_copies"
    MAX_NODES = "max_nodes"  # promised
    NUM_NODES = "num_nodes"  # that the cluster can have
    NODES_GIVEN_UP = "available_nodes"
    CAPACITY = "requests_per_s"
    TTFT = "ttft_p95_s"
    INTER_TOKEN = "inter_token_p95_s"
    DRAIN = "drain_s"  # in which a queue that breaks the TTFT is to be emptied
    HYSTERESIS = "hysteresis"
    COOL_DOWN = "cool_down"
    ONE_CHANGE = "one_change_in_flight"
    AWAY = "parts_away"
    PENDING = "pending_nodes"
    IDLE = "idle"


_TIMES = frozenset({Constraint.TTFT, Constraint.INTER_TOKEN, Constraint.DRAIN})
_SIZES = frozenset(
    {
        Constraint.GATEWAY_MEMORY,
        Constraint.SHARD_MEMORY,
        Constraint.GATEWAY_GPU_MEMORY,
        Constraint.SHARD_GPU_MEMORY,
        Constraint.CACHE,
    }
)
_BY_LOAD = _TIMES | {Constraint.CAPACITY}
_LEAST = frozenset({Constraint.COPIES, Constraint.CAPACITY})  # less than the limit breaks them
_WORDS = {
    Constraint.GATEWAY_MEMORY: "takes {value} of a gateway's machine, which has {limit}",
    Constraint.SHARD_MEMORY: "takes {value} of a shard's machine, which has {limit}",
    Constraint.GATEWAY_GPU_MEMORY: "takes {value} of a gateway's GPU, which has {limit}",
    Constraint.SHARD_GPU_MEMORY: "takes {value} of a shard's GPU, which has {limit}",
    Constraint.CACHE: "needs {value} of a gateway's KV cache, which has {limit}",
    Constraint.COPIES: "holds {value} of {limit} copies of every expert",
    Constraint.MAX_NODES: "takes {value} nodes, at most {limit} are promised",
    Constraint.NUM_NODES: "takes {value} nodes, the cluster has {limit} at most",
    Constraint.NODES_GIVEN_UP: "takes {value} nodes, more than {limit} did not come",
    Constraint.CAPACITY: "carries {value} of {limit} requests/s",
    Constraint.TTFT: "TTFT p95 {value}, promised {limit}",
    Constraint.DRAIN: "empties the queue in {value}, wanted {limit}",
    Constraint.INTER_TOKEN: "inter-token p95 {value}, promised {limit}",
}


@dataclass(frozen=True, slots=True)
class Broken:
    """A limit and what a candidate has instead."""

    field: Constraint
    limit: float
    value: float

    @property
    def is_by_load(self) -> bool:
        """Whether less load would mend it; a machine's memory or a number of nodes it would not."""
        return self.field in _BY_LOAD

    def __str__(self) -> str:
        """In words, with units."""
        value, limit = self._text(self.value), self._text(self.limit)
        if value == limit:  # by less than people are told
            value = f"a little {'under' if self.field in _LEAST else 'over'} {value}"
        return _WORDS[self.field].format(value=value, limit=limit)

    def _text(self, number: float) -> str:
        if math.isinf(number):
            return "without end"
        if self.field in _TIMES:
            return seconds_text(number)
        if self.field in _SIZES:
            return size_text(round(number))
        return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def told(broken: Sequence[Broken]) -> str:
    """All of them in words, but times that never end where it is said that the load is too much."""
    is_carried = all(b.field is not Constraint.CAPACITY for b in broken)
    return "; ".join(str(b) for b in broken if is_carried or not math.isinf(b.value))


def broken_limits(
    candidate: Candidate,
    prediction: Prediction,
    cluster: ClusterShape,
    objectives: Objectives,
    demand: Demand,
) -> tuple[Broken, ...]:
    """All limits that the candidate breaks, the hardest first.

    Memory (bytes of a machine), copies, machines, the load (requests/s), times (seconds), of which
    the most broken comes first, the queue (seconds).
    """
    limits = (
        *_memory(candidate, prediction, cluster),
        *_machines(candidate, cluster, objectives),
        *_objectives(prediction, objectives, demand.load),
        *_drain(prediction, objectives, demand.queue),
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


def excess_of(prediction: Prediction, objectives: Objectives, queue: Queue | None = None) -> float:
    """How many times over the promise that is broken most; 1: all are kept.

    A load that is not carried breaks every promise in the end. Where no time is promised, and the
    load is one of now, it makes a queue, which ``judge`` prices.
    """
    if not prediction.is_carried:
        if queue is not None and not objectives.has_times:
            return 1.0
        return _NOT_CARRIED * max(1.0, prediction.utilisation)
    broken = (value / limit for _, limit, value in _promised(prediction, objectives))
    excess = max(broken, default=1.0)
    for slow in _drain(prediction, objectives, queue):
        excess *= _DRAIN_GRAIN ** math.ceil(math.log(slow.value / slow.limit, _DRAIN_GRAIN))
    return excess


def slack_of(prediction: Prediction, objectives: Objectives) -> float:
    """Part of the tightest promise that is left; 0 without a promise, negative if broken."""
    parts = (1 - value / limit for _, limit, value in _promised(prediction, objectives, every=True))
    return min(parts, default=0.0)


def _promised(
    prediction: Prediction, objectives: Objectives, *, every: bool = False
) -> Iterator[tuple[str, float, float]]:
    """Field, limit and value of broken promises, or of every one."""
    for field in _LATENCIES:
        limit, value = getattr(objectives, field), getattr(prediction, field)
        if limit is not None and (every or value > limit):
            yield field, limit, value


def _memory(
    candidate: Candidate, prediction: Prediction, cluster: ClusterShape
) -> Iterator[Broken]:
    """Of machines by the parts that compute on cores, and of GPUs, each of which has one part."""
    held = prediction.gateway_bytes * math.ceil(candidate.gateways / candidate.gateway_nodes)
    if cluster.gateway_gpus:
        held = 0.0
        yield from _gpu_memory(candidate, prediction, cluster)
    if candidate.transport is not LinkTransport.LOCAL:
        machines = candidate.shard_nodes or candidate.gateway_nodes
        shards = prediction.shard_bytes * math.ceil(candidate.shards / machines)
        if cluster.shard_gpus:
            pass  # they take no memory of their machines
        elif not candidate.shard_nodes:
            held += shards
        elif shards > cluster.shard_node_bytes:
            yield Broken(Constraint.SHARD_MEMORY, cluster.shard_node_bytes, shards)
    if held > cluster.gateway_node_bytes:
        yield Broken(Constraint.GATEWAY_MEMORY, cluster.gateway_node_bytes, held)


def _gpu_memory(
    candidate: Candidate, prediction: Prediction, cluster: ClusterShape
) -> Iterator[Broken]:
    """Of one gateway's GPU, its cache, and one shard's GPU."""
    memory = cluster.gpu_memory
    assert memory is not None, "a cluster with GPUs knows of their memory"
    split = split_of(candidate)
    wanted = memory.wanted_on_gateway(split, prediction.cache_tokens)
    lacking = memory.lacks_cache(split, prediction.cache_tokens)
    if wanted > memory.free_bytes:
        yield Broken(Constraint.GATEWAY_GPU_MEMORY, memory.free_bytes, wanted)
    elif lacking is not None:
        yield Broken(Constraint.CACHE, *lacking)
    if cluster.shard_gpus and not split.is_local and memory.shard(split) > memory.shard_free_bytes:
        yield Broken(Constraint.SHARD_GPU_MEMORY, memory.shard_free_bytes, memory.shard(split))


def split_of(candidate: Candidate) -> Split:
    """How a candidate spreads the model over GPUs."""
    return Split(candidate.transport, candidate.gateways, candidate.shards, candidate.replicas)


def _machines(
    candidate: Candidate, cluster: ClusterShape, objectives: Objectives
) -> Iterator[Broken]:
    copies = num_copies(candidate, cluster)
    if copies < objectives.min_copies:
        yield Broken(Constraint.COPIES, objectives.min_copies, copies)
    nodes = num_nodes(candidate)
    for field, most in (
        (Constraint.MAX_NODES, objectives.max_nodes),
        (Constraint.NUM_NODES, cluster.num_nodes),
        (Constraint.NODES_GIVEN_UP, cluster.available_nodes),
    ):
        if most is not None and nodes > most:
            yield Broken(field, most, nodes)


def _objectives(prediction: Prediction, objectives: Objectives, load: Load) -> Iterator[Broken]:
    if not prediction.is_carried:
        yield Broken(Constraint.CAPACITY, load.requests_per_s, prediction.max_requests_per_s)
    promises = sorted(_promised(prediction, objectives), key=lambda p: -p[2] / p[1])
    for field, limit, value in promises:
        yield Broken(Constraint(field), limit, value)


def _drain(prediction: Prediction, objectives: Objectives, queue: Queue | None) -> Iterator[Broken]:
    if queue is None or objectives.ttft_p95_s is None or not prediction.is_carried:
        return
    seconds = min(queue.seconds(prediction.max_requests_per_s), _MOST_DRAIN * queue.drain_s)
    if seconds > queue.drain_s:
        yield Broken(Constraint.DRAIN, queue.drain_s, seconds)
