"""How even a placement is under a load, and whether a better one is worth its move."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galerne.ids import ShardId
from galerne.topology import Placement
from galerne.units import size_text

Floats = npt.NDArray[np.float64]


def balancedness(load: Floats, placement: Placement, shards: Sequence[ShardId]) -> float:
    """Mean over layers of ``balancedness_by_layer``.

    Raises:
        ValueError: As there.
    """
    evenness = balancedness_by_layer(load, placement, shards)
    return float(np.mean(evenness)) if evenness else 1.0


def balancedness_by_layer(
    load: Floats, placement: Placement, shards: Sequence[ShardId]
) -> list[float]:
    """Mean shard load / largest shard load of every layer: 1 is even, 1 / shards the worst.

    ``load``: ``[L, E]`` rows per expert, split evenly over an expert's replicas. A layer without
    load is even.

    Raises:
        ValueError: The load has another shape than the placement, or a replica is on no such shard.
    """
    number = {shard: i for i, shard in enumerate(shards)}
    if load.shape[0] != len(placement.by_layer):
        raise ValueError(f"load of {load.shape[0]} layers, placement of {len(placement.by_layer)}")
    evenness = []
    for layer, (rows, experts) in enumerate(zip(load, placement.by_layer, strict=True)):
        if len(rows) != len(experts):
            raise ValueError(f"layer {layer}: load of {len(rows)} experts, not {len(experts)}")
        on_shard = np.zeros(len(shards))
        for row_count, replicas in zip(rows, experts, strict=True):
            for shard in replicas:
                if shard not in number:
                    raise ValueError(f"the placement names {shard}, which is not among the shards")
                on_shard[number[shard]] += row_count / len(replicas)
        most = on_shard.max(initial=0.0)
        # The mean of equal numbers may round to above them.
        evenness.append(min(1.0, on_shard.mean() / most) if most > 0 else 1.0)
    return evenness


class LoadWindow:
    """What one process' counters of rows per expert grew by over the last snapshots.

    Its counters restart together: one that fell means that all began again at zero.
    """

    def __init__(self, num_snapshots: int) -> None:
        if num_snapshots < 2:
            raise ValueError(f"a window needs 2 snapshots, got {num_snapshots}")
        self._newest: Floats | None = None
        self._growth: deque[Floats] = deque(maxlen=num_snapshots - 1)

    def add(self, counters: npt.ArrayLike) -> None:
        """Take a snapshot of counters ``[L, E]`` that grow from the start of their process.

        Raises:
            ValueError: Another shape than the snapshot before.
        """
        snapshot = np.array(counters, np.float64)
        if self._newest is not None:
            if snapshot.shape != self._newest.shape:
                raise ValueError(f"counters {snapshot.shape} after {self._newest.shape}")
            has_restarted = bool((snapshot < self._newest).any())
            self._growth.append(snapshot if has_restarted else snapshot - self._newest)
        self._newest = snapshot

    def load(self) -> Floats | None:
        """``[L, E]`` rows between the oldest snapshot and the newest; None before there are two."""
        return np.sum(self._growth, axis=0) if self._growth else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveVerdict:
    """Whether a better placement pays for its loading, and why."""

    is_worth: bool
    gain_s: float
    cost_s: float
    reason: str


def is_worth_moving(
    old_balancedness: float,
    new_balancedness: float,
    step_expert_seconds_per_second: float,
    horizon_s: float,
    moved_bytes: int,
    load_bytes_per_s: float,
) -> MoveVerdict:
    """Weigh the expert time that better balance saves over the horizon against the loading.

    Expert time is that of the fullest shard, so it goes with 1 / balancedness.

    Args:
        old_balancedness: In (0, 1].
        new_balancedness: In (0, 1].
        step_expert_seconds_per_second: Part of a second that steps now wait for experts.
        horizon_s: How long the load is expected to stay as it is.
        moved_bytes: Expert weights to load; of the shard that loads most, if all load at once.
        load_bytes_per_s: How fast that is.

    Raises:
        ValueError: A number is outside its range.
    """
    for name, value in (("old", old_balancedness), ("new", new_balancedness)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}_balancedness must be in (0, 1], got {value}")
    if min(step_expert_seconds_per_second, horizon_s, moved_bytes) < 0 or load_bytes_per_s <= 0:
        raise ValueError("times and bytes must not be negative, and bytes per second above 0")
    saved_fraction = 1 - old_balancedness / new_balancedness
    gain_s = saved_fraction * step_expert_seconds_per_second * horizon_s
    cost_s = moved_bytes / load_bytes_per_s
    is_worth = gain_s > 0 and gain_s >= cost_s
    reason = (
        f"{'worth it' if is_worth else 'refused'}: balancedness {old_balancedness:.2f} to "
        f"{new_balancedness:.2f} saves {gain_s:.1f} s of expert time in {horizon_s:.0f} s; "
        f"loading {size_text(moved_bytes)} costs {cost_s:.1f} s"
    )
    return MoveVerdict(is_worth=is_worth, gain_s=gain_s, cost_s=cost_s, reason=reason)


def moved_experts(
    old: Placement, new: Placement, shards: Sequence[ShardId]
) -> Mapping[ShardId, int]:
    """Number of (layer, expert) that each of these shards must load and does not hold yet.

    Raises:
        ValueError: The placements are of different models.
    """
    if [len(layer) for layer in old.by_layer] != [len(layer) for layer in new.by_layer]:
        raise ValueError("placements of different numbers of layers or experts")
    moved = Counter(
        shard
        for old_layer, new_layer in zip(old.by_layer, new.by_layer, strict=True)
        for before, after in zip(old_layer, new_layer, strict=True)
        for shard in set(after).difference(before)
    )
    return {shard: moved[shard] for shard in shards}
