"""Keeps every expert alive: has surviving shards adopt those of lost ones, and release them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from cluster.control.adoption import plan_adoption
from cluster.control.events import EventLog
from cluster.control.health import HealthBook, HealthConfig
from cluster.control.part_client import PartFailedError
from cluster.control.ports import PartCalls
from galerne.ids import ShardId
from galerne.topology import Topology

logger = logging.getLogger(__name__)

_TURN_S = 0.5
ADOPT_TIMEOUT_S = 120.0


class ExpertKeeper:
    """A loop that compares what is lost with what is adopted. Belongs to one event loop."""

    def __init__(
        self,
        topology: Callable[[], Topology],
        health: HealthBook,
        calls: PartCalls,
        events: EventLog,
        config: HealthConfig | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``topology``: the one that serves now."""
        self._topology = topology
        self._health = health
        self._calls = calls
        self._now_s = now_s
        self._events = events
        self._config = config or HealthConfig()
        self._woken = asyncio.Event()
        self._lost: frozenset[ShardId] = frozenset()
        self._whole_since_s = now_s()
        self._adopted: dict[ShardId, frozenset[tuple[int, int]]] = {}  # as far as is known
        self._unsure: set[ShardId] = set()  # of that: a call goes on, or has failed
        self._running: dict[ShardId, asyncio.Task[None]] = {}
        self.turns = 0  # of the loop, for those who watch it

    def wake(self) -> None:
        """Something has changed."""
        self._woken.set()

    @property
    def lost(self) -> frozenset[ShardId]:
        """Shards that count as lost."""
        return self._lost

    def restarted(self, shard: ShardId) -> None:
        """A new process serves this shard: it has adopted nothing yet."""
        self._adopted.pop(shard, None)
        self._unsure.discard(shard)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self.turns += 1
                now = self._now_s()
                self._note_lost(self._health.lost(now), now)
                self._start_adoptions(now)
                next_s = self._health.next_s(now)
                self._woken.clear()
                wait = _TURN_S if next_s is None else min(_TURN_S, max(next_s - now, 0.01))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._woken.wait()
        finally:
            for task in self._running.values():
                task.cancel()

    def _note_lost(self, lost: frozenset[ShardId], now: float) -> None:
        for shard in sorted(lost - self._lost):
            self._events.add("shard_lost", shard)
        for shard in sorted(self._lost - lost):
            self._events.add("shard_back", shard)
        if lost or self._lost:
            self._whole_since_s = now
        self._lost = lost

    def _start_adoptions(self, now: float) -> None:
        """Ask for what is wanted and not yet so, one call per shard at a time."""
        topology = self._topology()
        wanted = plan_adoption(topology.placement, topology.shard_processes, self._lost)
        is_settled = now - self._whole_since_s >= self._config.release_s
        for shard in self._running.keys() & self._lost:
            self._running.pop(shard).cancel()  # it would wait for one that hangs
        for shard, experts in wanted.items():
            held = self._adopted.get(shard)
            target = next_adoption(held, experts, is_settled=is_settled)
            if target is None and shard in self._unsure:
                target = held  # again
            running = self._running.get(shard)
            if target is not None and (running is None or running.done()):
                self._running[shard] = asyncio.create_task(self._adopt(shard, target))

    async def _adopt(self, shard: ShardId, experts: frozenset[tuple[int, int]]) -> None:
        started = self._now_s()
        held = self._adopted.get(shard)
        self._adopted[shard] = experts
        self._unsure.add(shard)
        try:
            await self._calls.adopt(shard, experts, ADOPT_TIMEOUT_S)
        except PartFailedError as error:
            logger.warning("adoption_failed shard=%s reason=%s", shard, error)
            return  # the next turn tries again
        self._unsure.discard(shard)
        if experts or held:
            kind = "experts_adopted" if experts else "experts_released"
            seconds = self._now_s() - started
            self._events.add(kind, shard, f"experts={len(experts)} s={seconds:.2f}")
        self.wake()


def next_adoption(
    held: frozenset[tuple[int, int]] | None,
    wanted: frozenset[tuple[int, int]],
    *,
    is_settled: bool,
) -> frozenset[tuple[int, int]] | None:
    """What to ask of a shard that holds these (None: nobody knows) for others; None: nothing.

    More than is wanted stays until all shards have been back for a while (``is_settled``), since
    who has just come back may go again.
    """
    if is_settled:
        return wanted if held != wanted else None
    if wanted <= (held or frozenset()):
        return None
    return wanted | (held or frozenset())
