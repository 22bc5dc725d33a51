"""Which rows go to which shard: pure functions over numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galerne.ids import ShardId
from galerne.topology import Replicas, Topology

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameRows:
    """The rows of one frame. T = tokens of the frame, G = groups, R = rows, K = experts per token.

    Rows come group after group, one group per expert, experts ascending.
    """

    tokens: Ints  # [T] rows of the micro-batch, each once
    expert_ids: Ints  # [G]
    num_rows_by_group: Ints  # [G]
    row_token: Ints  # [R] index into ``tokens``
    slots: Ints  # [R] place of the result: token * K + k


def rows_of(expert_ids: Ints, slots: Ints) -> FrameRows:
    """The frame that computes the given slots of ``[T, K]`` routing."""
    num_tokens, top_k = expert_ids.shape
    flat = expert_ids.reshape(-1)
    ordered = slots[np.argsort(flat[slots], kind="stable")]
    experts = flat[ordered]
    starts = np.flatnonzero(np.diff(experts, prepend=-1))  # of the groups
    token = ordered // top_k
    is_there = np.zeros(num_tokens, dtype=bool)
    is_there[token] = True
    place = np.cumsum(is_there) - 1  # of a token in the frame
    counts = np.diff(starts, append=len(experts))
    return FrameRows(np.flatnonzero(is_there), experts[starts], counts, place[token], ordered)


def owners_of(topology: Topology) -> list[Ints] | None:
    """The shard of every layer's every expert, by its number; None if some have copies."""
    number = {shard: i for i, shard in enumerate(topology.shards)}
    layers = topology.placement.by_layer
    if any(len(replicas) != 1 for layer in layers for replicas in layer):
        return None
    return [np.array([number[shard] for (shard,) in layer]) for layer in layers]


def slots_by_owner(expert_ids: Ints, owner: Ints, num_owners: int) -> list[Ints]:
    """All slots by the owner of their expert, each owner's by expert.

    ``owner`` ``[E]`` is a number below ``num_owners`` for every expert.
    """
    flat = expert_ids.reshape(-1)
    owners = owner[flat]
    order = np.argsort(owners * len(owner) + flat, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=num_owners))
    return np.split(order, ends[:-1])


def group_slots(
    expert_ids: Ints, slots: Ints, shard_of_expert: Mapping[int, ShardId]
) -> dict[ShardId, Ints]:
    """The given slots by shard, each shard's in order of expert."""
    if not len(slots):
        return {}
    flat = expert_ids.reshape(-1)
    ordered = slots[np.argsort(flat[slots], kind="stable")]
    experts, starts = np.unique(flat[ordered], return_index=True)
    parts: dict[ShardId, list[Ints]] = {}
    for expert, part in zip(experts, np.split(ordered, starts[1:]), strict=True):
        parts.setdefault(shard_of_expert[int(expert)], []).append(part)
    return {shard: np.concatenate(lists) for shard, lists in parts.items()}


def choose_shards(
    touched: Sequence[int],
    num_rows: Sequence[int],
    replicas: Mapping[int, Replicas],
    usable: AbstractSet[ShardId],
) -> dict[int, ShardId | None]:
    """One usable replica for every touched expert; None where there is none.

    Levels the number of distinct experts per shard, because a CPU shard's time is the bytes of the
    experts it reads: experts with most rows choose first, ties to the lower id, then to the
    replica listed first. Pure, so that every gateway chooses alike.
    """
    load: dict[ShardId, int] = {}
    chosen: dict[int, ShardId | None] = {}
    for _, expert in sorted(zip((-n for n in num_rows), touched, strict=True)):
        candidates = [shard for shard in replicas[expert] if shard in usable]
        if not candidates:
            chosen[expert] = None
            continue
        best = min(candidates, key=lambda shard: load.get(shard, 0))
        load[best] = load.get(best, 0) + 1
        chosen[expert] = best
    return chosen


def cut(slots: Ints, row_budget: int) -> Iterable[Ints]:
    """In consecutive parts of at most so many rows."""
    return (slots[i : i + row_budget] for i in range(0, len(slots), row_budget))
