"""What a shard is told of adapters: hold their parts of the experts here, or no longer."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from galerne.adapters import AdapterInfo
from shards.adapters.adapter import Adapter, key_of
from shards.adapters.directory import find_adapter
from shards.bank import ExpertBank
from shards.worker import ExpertWorker

logger = logging.getLogger(__name__)


class ShardAdapters:
    """Loads and forgets adapters while the shard serves. Lives on the server's loop."""

    def __init__(self, root: Path | None, bank: ExpertBank, worker: ExpertWorker) -> None:
        self._root = root
        self._bank = bank
        self._worker = worker
        self._lock = asyncio.Lock()

    async def load(self, wanted: AdapterInfo) -> Adapter:
        """Hold an adapter. May be repeated.

        Raises:
            GalerneError: See ``find_adapter``, and ``ExpertBank.add_adapter``.
        """
        async with self._lock:
            model = self._bank.model
            adapter = await asyncio.to_thread(find_adapter, self._root, wanted, model)
            await asyncio.to_thread(self._bank.add_adapter, adapter, wanted.name)
            logger.info("adapter_loaded name=%s id=%s", wanted.name, adapter.id)
            return adapter

    async def unload(self, adapter_id: str) -> None:
        """Forget an adapter; frames that name it are refused from then on."""
        async with self._lock:
            drop = self._worker.run_between_passes(
                lambda: self._bank.drop_adapter(key_of(adapter_id))
            )
            await asyncio.wrap_future(drop)
            logger.info("adapter_unloaded id=%s", adapter_id)
