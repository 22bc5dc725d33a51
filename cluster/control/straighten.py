"""Brings parts that missed a change into the topology that serves: they hung, or were cut off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from typing import NamedTuple

from cluster.control.conductor import Stage, TopologyConductor
from cluster.control.events import EventLog
from cluster.control.part_client import PartFailedError
from cluster.control.ports import GatewayState, PartCalls, Registry
from galerne.ids import Epoch, ShardId
from galerne.topology import Topology

logger = logging.getLogger(__name__)

_TURN_S = 1.0
_LINK_S = 30.0
_CALL_S = 10.0
_COMMIT_S = 45.0


class Serving(NamedTuple):
    """What a controller that has just started takes to be serving."""

    current: Topology
    old: Topology | None = None  # what gateways still serve that have not committed yet


def newest(states: Mapping[str, GatewayState], known: Topology | None, first: Topology) -> Serving:
    """The highest epoch that a gateway has committed to: where one has, all will have to.

    Gateways that a change adds start in its target, so they prove nothing.

    Args:
        states: By gateway.
        known: What served when somebody who lives on last asked.
        first: If there is nothing else to go by.
    """
    found = sorted(states.items(), key=lambda item: (item[1].topology.epoch, item[0]))
    current = known or (found[0][1].topology if found else first)
    for gateway, state in found:
        if state.topology.epoch > current.epoch and gateway in current.gateways:
            current = state.topology
    older = [s.topology for _, s in found if s.topology.epoch < current.epoch]
    return Serving(current, older[-1] if older else None)


def is_behind(serving: Collection[Epoch], epoch: Epoch) -> bool:
    """Whether a part does not serve exactly this epoch."""
    return set(serving) != {epoch}


class Straightener:
    """A loop that leaves the parts alone while a change goes on."""

    def __init__(
        self,
        conductor: TopologyConductor,
        calls: PartCalls,
        registry: Registry,
        events: EventLog,
    ) -> None:
        self._conductor = conductor
        self._calls = calls
        self._registry = registry
        self._events = events
        self._behind: set[str] = set()
        self.turns = 0  # of the loop, for those who watch it

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_TURN_S)
            self.turns += 1
            if self._conductor.stage is Stage.IDLE:
                async with self._conductor.lock:
                    await self.straighten()

    async def straighten(self) -> None:
        """One look at every part; shards first, for gateways connect to them.

        Who is behind at two looks is corrected: what a part last said may be older than a commit.
        No epoch is retired while a gateway that lives serves another than the current one.
        """
        topology = self._conductor.current
        behind = {part for part in topology.parts if self._is_behind(part, topology)}
        late, self._behind = behind & self._behind, behind
        late_shards = [shard for shard in topology.shard_processes if shard in late]
        for shard in late_shards:
            await self._try(shard, self._prepare(shard, topology))
        for gateway in topology.gateways:
            if gateway in late:
                await self._try(gateway, self._straighten_gateway(gateway, topology))
        if behind.isdisjoint(topology.gateways):
            for shard in late_shards:
                await self._try(shard, self._retire(shard, topology))

    def _is_behind(self, part: str, topology: Topology) -> bool:
        return self._registry.is_live(part) and is_behind(
            self._registry.epochs_of(part), topology.epoch
        )

    async def _prepare(self, shard: ShardId, topology: Topology) -> None:
        if topology.epoch not in self._registry.epochs_of(shard):
            await self._conductor.prepare_shard(shard, topology)

    async def _retire(self, shard: ShardId, topology: Topology) -> None:
        await self._calls.retire_epochs(shard, [topology.epoch], _CALL_S)
        self._events.add("shard_follows", shard, f"epoch={topology.epoch}")

    async def _straighten_gateway(self, gateway: str, topology: Topology) -> None:
        await self._calls.prepare_topology(gateway, topology, _LINK_S)
        await self._calls.commit(gateway, topology.epoch, _COMMIT_S)
        self._events.add("gateway_follows", gateway, f"epoch={topology.epoch}")

    async def _try(self, part: str, correction: Coroutine[None, None, None]) -> None:
        if self._conductor.stage is not Stage.IDLE:  # a change waits for us
            correction.close()
            return
        try:
            await correction
        except PartFailedError as error:
            logger.warning("straighten_failed part=%s reason=%s", part, error)
