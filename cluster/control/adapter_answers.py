"""What the controller answers about adapters."""

from __future__ import annotations

import asyncio

from cluster.control.adapters import AdapterKeeper
from galerne.adapters import AdapterInfo


class AdapterAnswers:
    """A part of the controller; nothing is said before it has recovered."""

    _adapters: AdapterKeeper
    _recovered: asyncio.Event

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
