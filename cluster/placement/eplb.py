"""A placement from measured load: hot experts get more copies, every shard gets equal work.

After DeepSeek's EPLB (replicate greedily, pack, nodes before shards), but a node is a failure
domain here: the copies of an expert go to different nodes before they share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np

from cluster.placement.packing import Floats, Ints, pack
from galerne.ids import ShardId
from galerne.topology import Placement, Replicas

# Rows that an expert without load counts as: enough for idle experts to be spread evenly, too
# few to be seen beside any real load. A power of two, so that sums of it are exact and tie.
IDLE_ROWS = 2.0**-600


def balanced_placement(
    load: Floats,
    shards_by_node: Mapping[str, Sequence[ShardId]],
    num_physical: int,
    min_replicas: int = 1,
) -> Placement:
    """Copies where the load is, even over the shards, spread over nodes first.

    L = layers, E = logical experts. In every layer each shard holds ``num_physical`` / shards
    experts, rounded down or up; which shards hold one more goes round with the layers. Copies of an
    expert are on different shards, and on different nodes as far as the sizes of the nodes allow.
    Ties go to the lower expert id, and to the shard that has less room or is named first.

    Args:
        load: ``[L, E]`` rows per expert in a window of time.
        shards_by_node: Every shard once. Nodes without shards do not count.
        num_physical: Copies per layer over all shards, in ``[E * min_replicas, E * shards]``.
        min_replicas: Copies of every expert at least.

    Returns:
        Replicas in order of their shard's load in the layer, the least loaded first.

    Raises:
        ValueError: The load is no finite, non-negative table, a shard is named twice, or the
            numbers of shards, experts and copies do not fit together.
    """
    nodes = [tuple(shards) for shards in shards_by_node.values() if shards]
    _check(load, list(chain(*nodes)), num_physical, min_replicas)
    return Placement(
        tuple(
            _place_layer(np.maximum(rows, IDLE_ROWS), nodes, num_physical, min_replicas, layer)
            for layer, rows in enumerate(load)
        )
    )


def _check(load: Floats, shards: Sequence[ShardId], num_physical: int, min_replicas: int) -> None:
    if load.ndim != 2 or not load.shape[1]:
        raise ValueError(f"load must be [layers, experts], got shape {load.shape}")
    if not np.isfinite(load).all() or (load < 0).any():
        raise ValueError("load must be finite and not negative")
    twice = sorted({shard for shard in shards if shards.count(shard) > 1})
    if twice:
        raise ValueError(f"shards named twice: {', '.join(twice)}")
    if not 1 <= min_replicas <= len(shards):
        raise ValueError(f"min_replicas must be in [1, {len(shards)}] shards, got {min_replicas}")
    least, most = load.shape[1] * min_replicas, load.shape[1] * len(shards)
    if not max(least, len(shards)) <= num_physical <= most:
        raise ValueError(
            f"num_physical must be in [{max(least, len(shards))}, {most}] for {load.shape[1]} "
            f"experts, {min_replicas} replicas and {len(shards)} shards, got {num_physical}"
        )


def _place_layer(
    load: Floats,
    nodes: Sequence[Sequence[ShardId]],
    num_physical: int,
    min_replicas: int,
    layer: int,
) -> tuple[Replicas, ...]:
    shards = list(chain(*nodes))
    sizes = np.array([len(node) for node in nodes])
    starts = np.cumsum(sizes) - sizes
    room = _rooms(nodes, num_physical, layer)
    copies = _num_copies(load, num_physical, min_replicas, len(shards))
    per_copy = load / copies
    on_node = pack(per_copy, copies, np.add.reduceat(room, starts), sizes)  # [E, N]
    on_shard = np.hstack(  # [E, S]
        [
            pack(per_copy, on_node[:, node], part, np.ones_like(part))
            for node, part in enumerate(np.split(room, starts[1:]))
        ]
    )
    # Not a matrix product: its order of additions, and so its ties, depend on the machine.
    by_load = np.argsort((per_copy[:, None] * on_shard).sum(axis=0), kind="stable")
    return tuple(tuple(shards[i] for i in by_load if held[i]) for held in on_shard)


def _num_copies(load: Floats, num_physical: int, min_replicas: int, num_shards: int) -> Ints:
    """``[E]``: always one more to the expert with the largest load per copy."""
    copies = np.full(len(load), min_replicas, np.int64)
    for _ in range(num_physical - copies.sum()):
        copies[np.argmax(np.where(copies < num_shards, load / copies, -1.0))] += 1
    return copies


def _rooms(nodes: Sequence[Sequence[ShardId]], num_physical: int, layer: int) -> Ints:
    """``[S]`` copies of a layer that every shard holds, equal within one.

    The shards that hold one more are taken in turns over nodes and layers, so that neither a node
    nor, over all layers, a shard holds more than its part.
    """
    numbers = iter(range(sum(map(len, nodes))))
    numbered = [[next(numbers) for _ in node] for node in nodes]
    turns = [i for rank in zip_longest(*numbered) for i in rank if i is not None]
    each, rest = divmod(num_physical, len(turns))
    room = np.full(len(turns), each, np.int64)
    for turn in range(layer * rest, layer * rest + rest):
        room[turns[turn % len(turns)]] += 1
    return room
