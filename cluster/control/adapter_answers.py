"""What the controller answers about adapters."""

from __future__ import annotations

import asyncio

from cluster.control.adapters import AdapterKeeper
from cluster.control.conductor import TopologyConductor
from cluster.control.events import EventLog
from cluster.control.members import MemberBook
from cluster.control.ports import PartCalls
from galerne.adapters import AdapterInfo


class AdapterAnswers:
    """A part of the controller; nothing is said before it has recovered."""

    _adapters: AdapterKeeper
    _recovered: asyncio.Event

    def _keep_adapters(
        self,
        conductor: TopologyConductor,
        members: MemberBook,
        calls: PartCalls,
        events: EventLog,
        model_name: str,
    ) -> None:
        """Begin with none."""
        self._adapters = AdapterKeeper(lambda: conductor.wanted, members, calls, events, model_name)

    async def loaded_adapters(self) -> tuple[AdapterInfo, ...]:
        """What a part that starts has to load before it serves."""
        await self._recovered.wait()
        return self._adapters.loaded

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """See ``ClusterPort``."""
        return self._adapters.listed

    async def load_adapter(self, name: str, directory: str) -> AdapterInfo:
        """See ``ClusterPort``."""
        await self._recovered.wait()
        return await self._adapters.load(name, directory)

    async def unload_adapter(self, name: str, deadline_s: float) -> AdapterInfo:
        """See ``ClusterPort``."""
        await self._recovered.wait()
        return await self._adapters.unload(name, deadline_s)
