"""Runs a shard in this process: bank, compute thread, and a server on an event-loop thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from galerne.clock import MonotonicClock
from galerne.ids import ShardId
from shards.bank import ExpertBank
from shards.checkpoint.open import open_checkpoint
from shards.metrics import ShardMetrics
from shards.server import ShardIdentity, ShardServer
from shards.worker import ExpertWorker

_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """Everything a shard needs to start."""

    shard_id: ShardId
    checkpoint: Path
    experts_by_layer: Mapping[int, Iterable[int]]
    dtype: torch.dtype
    numerics_profile: str
    cluster_token: str
    epochs: tuple[int, ...]
    host: str = "127.0.0.1"
    num_threads: int = 1


class ShardHost:
    """A running shard."""

    def __init__(
        self, settings: ShardSettings, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Load the experts and serve; returns when the port listens.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        checkpoint = open_checkpoint(settings.checkpoint)
        bank = ExpertBank(checkpoint, settings.experts_by_layer, settings.dtype, on_progress)
        bank.prefault()
        self._metrics = ShardMetrics()
        self._metrics.resident_bytes.set(bank.num_bytes)
        self._worker = ExpertWorker(bank, self._metrics, MonotonicClock(), settings.num_threads)
        self._worker.start()
        identity = ShardIdentity(
            shard_id=settings.shard_id,
            fingerprint=checkpoint.fingerprint,
            numerics_profile=settings.numerics_profile,
            cluster_token=settings.cluster_token,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shard-grpc")
        self._thread.daemon = True
        self._thread.start()

        async def serve() -> tuple[ShardServer, int]:
            server = ShardServer(
                identity,
                bank,
                self._worker,
                self._metrics,
                set(settings.epochs),
                checkpoint.bytes_read,
            )
            return server, await server.start(settings.host)

        self._server, port = asyncio.run_coroutine_threadsafe(serve(), self._loop).result()
        self.address = f"{settings.host}:{port}"

    @property
    def is_alive(self) -> bool:
        """Whether the compute thread and the server's loop run."""
        return self._worker.is_alive() and self._thread.is_alive()

    def stop(self) -> None:
        """Stop serving and end the threads."""
        future = asyncio.run_coroutine_threadsafe(self._server.stop(0.2), self._loop)
        future.result(_STOP_TIMEOUT_S)
        self._worker.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)
        self._loop.close()
