"""Watches how even the shards' load is, and proposes a better placement where it pays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cluster.control.part_client import PartFailedError
from cluster.control.ports import PartCalls, Registry, ShardLoad
from cluster.placement.balance import (
    LoadWindow,
    MoveVerdict,
    balancedness,
    balancedness_by_layer,
    is_worth_moving,
    moved_experts,
)
from cluster.placement.eplb import balanced_placement
from galerne.ids import Epoch, ShardId
from galerne.topology import Topology
from router.api.cluster_port import ExpertLoadFacts, ShardLoadFacts

logger = logging.getLogger(__name__)

TURN_S = 10.0
NUM_SNAPSHOTS = 7  # a minute
HORIZON_S = 600.0
LOAD_BYTES_PER_S = 300e6  # reading and packing weights, one shard: 0.3 to 1 GB/s seen on the 1b
_CALL_S = 5.0
_QUICK_CALL_S = 2.0  # while someone waits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rebalance:
    """A better placement, and whether it pays."""

    target: Topology
    verdict: MoveVerdict


class LoadBook:
    """Rows by layer and expert over the last minute, and how busy the busiest shard was."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self._shape = (num_layers, num_experts)
        self._windows: dict[ShardId, LoadWindow] = {}
        self._seconds: dict[ShardId, tuple[float, float]] = {}  # (when, computed) at the last look
        self._busy: dict[ShardId, float] = {}

    def add(self, shard: ShardId, load: ShardLoad, now_s: float) -> None:
        """Take in what a shard says."""
        window = self._windows.setdefault(shard, LoadWindow(NUM_SNAPSHOTS))
        window.add(load.expert_rows.reshape(self._shape))
        before = self._seconds.get(shard)
        self._seconds[shard] = (now_s, load.compute_seconds)
        if before is not None and now_s > before[0]:
            grown = max(load.compute_seconds - before[1], 0.0)
            self._busy[shard] = min(grown / (now_s - before[0]), 1.0)

    def rows_of(self, shard: ShardId) -> int:
        """Rows of one shard over the last minute."""
        window = self._windows.get(shard)
        grown = None if window is None else window.load()
        return 0 if grown is None else int(grown.sum())

    def busy_of(self, shard: ShardId) -> float:
        """Part of the time that one shard computed."""
        return self._busy.get(shard, 0.0)

    def keep(self, shards: Sequence[ShardId]) -> None:
        """Forget all shards but these."""
        for book in (self._windows, self._seconds, self._busy):
            for shard in book.keys() - set(shards):
                del book[shard]

    @property
    def load(self) -> Floats:
        """``[L, E]`` rows of all shards together."""
        total: Floats = np.zeros(self._shape)
        for window in self._windows.values():
            grown = window.load()
            if grown is not None:
                total += grown
        return total

    @property
    def busy(self) -> float:
        """Part of the time that the busiest shard computed."""
        return max(self._busy.values(), default=0.0)


class Balancer:
    """A loop that keeps the ``LoadBook``. Belongs to one event loop."""

    def __init__(
        self,
        topology: Callable[[], Topology],
        calls: PartCalls,
        registry: Registry,
        expert_bytes: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``topology``: the one that serves now."""
        layers = topology().placement.by_layer
        self.book = LoadBook(len(layers), len(layers[0]))
        self._topology = topology
        self._calls = calls
        self._registry = registry
        self._expert_bytes = expert_bytes
        self._now_s = now_s
        self.turns = 0  # of the loop, for those who watch it

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.turns += 1
            await self.look()
            await asyncio.sleep(TURN_S)

    async def look(self) -> None:
        """Ask every shard once."""
        shards = self._topology().shard_processes
        self.book.keep(shards)
        for shard in shards:
            load = await self._load_of(shard, _CALL_S)
            if load is not None:
                self.book.add(shard, load, self._now_s())

    async def facts(self) -> ExpertLoadFacts:
        """The load of the last minute, and what every shard has computed until now."""
        shards = self._topology().shard_processes
        loads = await asyncio.gather(*(self._load_of(shard, _QUICK_CALL_S) for shard in shards))
        return ExpertLoadFacts(
            window_s=TURN_S * (NUM_SNAPSHOTS - 1),
            rows=self.book.load.astype(np.int64).tolist(),
            rows_total=_total(loads, self.book.load.shape),
            balancedness=self.balancedness,
            shards=[
                ShardLoadFacts(
                    id=shard,
                    rows=None if load is None else int(load.expert_rows.sum()),
                    rows_lately=self.book.rows_of(shard),
                    busy=self.book.busy_of(shard),
                )
                for shard, load in zip(shards, loads, strict=True)
            ],
        )

    async def _load_of(self, shard: ShardId, timeout_s: float) -> ShardLoad | None:
        """None from a shard that is away."""
        if not self._registry.is_live(shard):
            return None
        try:
            return await self._calls.load_of(shard, timeout_s)
        except PartFailedError as error:
            logger.warning("load_unknown shard=%s reason=%s", shard, error)
            return None

    @property
    def balancedness(self) -> float:
        """Of the topology that serves, under the load of the last minute; 1 is even."""
        topology = self._topology()
        return balancedness(self.book.load, topology.placement, topology.shards)

    @property
    def balancedness_by_layer(self) -> list[float]:
        """The same of every layer."""
        topology = self._topology()
        return balancedness_by_layer(self.book.load, topology.placement, topology.shards)

    @property
    def peak_by_layer(self) -> list[float]:
        """Rows of every layer's hottest expert / mean of its experts; 1 where nothing came."""
        load = self.book.load
        mean = load.mean(axis=1)
        peaks: list[float] = np.where(
            mean > 0, load.max(axis=1) / np.maximum(mean, 1e-9), 1.0
        ).tolist()
        return peaks

    def propose(self, shards_by_node: Mapping[str, Sequence[ShardId]]) -> Rebalance:
        """The placement for the load of the last minute, on the shards that serve."""
        return propose(
            self._topology(), self.book.load, self.book.busy, shards_by_node, self._expert_bytes
        )


def _total(loads: Iterable[ShardLoad | None], shape: tuple[int, ...]) -> list[list[int]]:
    """``[L][E]`` rows of shards that have answered, since each has started."""
    total = np.zeros(shape, np.int64)
    for load in loads:
        if load is not None:
            total += load.expert_rows.reshape(shape)
    rows: list[list[int]] = total.tolist()
    return rows


def propose(
    current: Topology,
    load: Floats,
    busy: float,
    shards_by_node: Mapping[str, Sequence[ShardId]],
    expert_bytes: int,
) -> Rebalance:
    """Place the same number of copies by ``load`` ``[L, E]``, and weigh the move. Pure."""
    num_physical = sum(map(len, current.placement.by_layer[0]))
    placement = balanced_placement(
        load, shards_by_node, num_physical, current.placement.num_replicas
    )
    moved = moved_experts(current.placement, placement, current.shards)
    verdict = is_worth_moving(
        balancedness(load, current.placement, current.shards),
        balancedness(load, placement, current.shards),
        busy,
        HORIZON_S,
        max(moved.values(), default=0) * expert_bytes,
        LOAD_BYTES_PER_S,
    )
    target = replace(current, epoch=Epoch(current.epoch + 1), placement=placement)
    return Rebalance(target, verdict)
