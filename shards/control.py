"""What a shard is told by the controller: hold these experts, serve these epochs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from galerne.errors import GalerneError
from shards.bank import ExpertBank
from shards.cgroup import available_memory
from shards.epochs import ServedEpochs
from shards.residency import Experts, Residency, by_layer
from shards.worker import ExpertWorker

logger = logging.getLogger(__name__)

_SPARE = 1.1  # of the memory that new experts need: their packing needs some


class NoRoomError(GalerneError):
    """A shard has no memory for more experts."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, num_experts: int, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(num_experts, needed_bytes, free_bytes)
        self.num_experts = num_experts
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes

    def __str__(self) -> str:
        return (
            f"{self.num_experts} more experts take {self.needed_bytes >> 20} MiB, "
            f"{self.free_bytes >> 20} MiB are free"
        )


class ShardControl:
    """Loads and releases experts while the shard serves. Lives on the server's loop."""

    def __init__(
        self,
        bank: ExpertBank,
        worker: ExpertWorker,
        epochs: ServedEpochs,
        placed: Experts,
        on_adopted: Callable[[], None],
    ) -> None:
        """``on_adopted`` is called when what is adopted has changed."""
        self._bank = bank
        self._worker = worker
        self._epochs = epochs
        self._residency = Residency(epochs, placed)
        self._on_adopted = on_adopted
        self._lock = asyncio.Lock()

    @property
    def adopted(self) -> Experts:
        """What is held for lost shards."""
        return self._residency.adopted

    async def prepare(self, epoch: int, placed: Experts) -> int:
        """Hold what an epoch to come places here, and serve it; how many experts were loaded.

        Raises:
            NoRoomError: They do not fit.
            CheckpointError: They cannot be read.
        """
        async with self._lock:
            num_loaded = await self._load(placed)
            self._residency.prepare(epoch, placed)
            await self._serve_known()
            logger.info("epoch_prepared epoch=%d loaded=%d", epoch, num_loaded)
            return num_loaded

    async def retire(self, keep: Collection[int]) -> int:
        """Serve no epochs but these, and release what only the others need; how many experts."""
        async with self._lock:
            self._residency.retire(keep)
            await self._serve_known()
            num_released = await self._release()
            logger.info("epochs_retired kept=%s released=%d", sorted(keep), num_released)
            return num_released

    async def adopt(self, experts: Experts) -> int:
        """Hold exactly these for lost shards; how many were loaded. Gateways are told.

        Raises:
            NoRoomError: They do not fit.
            CheckpointError: They cannot be read.
        """
        async with self._lock:
            started = time.monotonic()
            num_loaded = await self._load(experts)
            before = self.adopted
            self._residency.adopt(experts)
            if self.adopted == before:
                return num_loaded
            self._on_adopted()  # before some are released: who still asks for those is refused
            await self._release()
            seconds = time.monotonic() - started
            held = len(self.adopted)
            logger.warning("adopted experts=%d loaded=%d s=%.2f", held, num_loaded, seconds)
            return num_loaded

    async def _load(self, experts: Experts) -> int:
        new = experts - self._bank.resident
        if new:
            self._check_room(len(new))
            await asyncio.to_thread(self._bank.load, by_layer(new))
        return len(new)

    def _check_room(self, num_experts: int) -> None:
        each = self._bank.num_bytes // max(len(self._bank), 1)
        needed = int(each * num_experts * _SPARE)
        free = available_memory()
        if needed > free:
            raise NoRoomError(num_experts, needed, free)

    async def _serve_known(self) -> None:
        self._epochs.replace(self._residency.epochs)
        await self._between_passes(lambda: None)

    async def _release(self) -> int:
        old = self._bank.resident - self._residency.wanted
        if old:
            await self._between_passes(lambda: self._bank.drop(by_layer(old)))
        return len(old)

    async def _between_passes(self, what: Callable[[], None]) -> None:
        """Run something where no kernel reads what it changes."""
        await asyncio.wrap_future(self._worker.run_between_passes(what))
