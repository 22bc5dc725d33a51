"""Runs a shard in this process: bank, compute thread, and a server on the gRPC loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from galerne.adapters import AdapterInfo
from galerne.clock import MonotonicClock
from galerne.ids import Epoch, ShardId
from galerne.internal_tls import InternalTls
from galerne.loop_thread import grpc_loop
from galerne.metric_set import MetricSet
from shards.adapters.directory import find_adapter
from shards.bank import ExpertBank
from shards.checkpoint.open import open_checkpoint
from shards.device_room import DeviceRoom
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, CUDA
from shards.metrics import ShardMetrics
from shards.nccl.metrics import show_nccl
from shards.nccl.process import NcclProcess
from shards.server import ShardIdentity, ShardServer
from shards.warm import warm_adapted
from shards.worker import ExpertWorker

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSettings:
    """Everything a shard needs to start."""

    shard_id: ShardId
    checkpoint: Path
    experts_by_layer: Mapping[int, Iterable[int]]
    dtype: torch.dtype
    numerics_profile: str
    cluster_token: str = field(repr=False)
    epochs: tuple[int, ...]
    tls: InternalTls | None = None  # None: plain text
    host: str = "127.0.0.1"
    num_threads: int = 1
    core: int | None = None  # where several shards share a host: the number of its own
    held: WeightFormat = WeightFormat.BF16
    device: str = CPU
    adapters_root: Path | None = None  # adapters lie in directories of it
    adapters: tuple[AdapterInfo, ...] = ()  # to be loaded before it serves
    device_room: int | None = None  # bytes for experts and adapters on its GPU; None: no limit
    trusts_network: bool = False  # rows may go to other hosts by NCCL, in plain text


class ShardHost:
    """A running shard."""

    def __init__(
        self,
        settings: ShardSettings,
        on_progress: Callable[[int, int], None] | None = None,
        nccl: NcclProcess | None = None,
    ) -> None:
        """Load the experts and serve; returns when the port listens.

        ``nccl`` unset: that of this process' GPU, if a gateway wants it.

        Raises:
            CheckpointError: The checkpoint cannot be used, or an adapter.
            ConfigError: The device is not here.
            DeviceFullError: What it shall hold does not fit there.
        """
        checkpoint = open_checkpoint(settings.checkpoint)
        bank = ExpertBank(
            checkpoint,
            settings.experts_by_layer,
            settings.dtype,
            on_progress,
            settings.num_threads,
            settings.held,
            settings.device,
            DeviceRoom(settings.device_room),
        )
        bank.prefault()
        for known in settings.adapters:
            adapter = find_adapter(settings.adapters_root, known, checkpoint.config)
            bank.add_adapter(adapter, known.name)
        if settings.device == CUDA and settings.adapters_root is not None:
            warm_adapted(bank)
        self._bank = bank
        self._bytes_read = checkpoint.bytes_read
        self._metrics = ShardMetrics(checkpoint.config.num_layers, checkpoint.config.num_experts)
        self._worker = ExpertWorker(
            bank, self._metrics, MonotonicClock(), settings.num_threads, settings.core
        )
        self._worker.start()
        self._nccl = nccl or NcclProcess(trusts_network=settings.trusts_network)
        identity = ShardIdentity(
            shard_id=settings.shard_id,
            fingerprint=checkpoint.fingerprint,
            numerics_profile=settings.numerics_profile,
            cluster_token=settings.cluster_token,
        )

        async def serve() -> tuple[ShardServer, int]:
            server = ShardServer(
                identity,
                bank,
                self._worker,
                self._metrics,
                settings.epochs,
                checkpoint.bytes_read,
                settings.adapters_root,
                self._nccl,
            )
            return server, await server.start(settings.host, tls=settings.tls)

        self._server, port = grpc_loop().run(serve(), _TIMEOUT_S)
        show_held(self._metrics.set, bank, self._server)
        show_nccl(self._metrics.set, self._nccl)
        self.address = f"{settings.host}:{port}"

    def describe(self) -> dict[str, object]:
        """What the shard holds and has done."""
        return {
            "experts": len(self._bank),
            "resident_bytes": self._bank.num_bytes,
            "bytes_read": self._bytes_read,
            "frames": self._metrics.num_frames,
            "rows": self._metrics.num_rows,
            "compute_seconds": self._metrics.compute_seconds,
            "metrics": self._metrics.text(),
        }

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """Those that are served."""
        return tuple(map(Epoch, sorted(self._server.epochs)))

    @property
    def adapters(self) -> frozenset[str]:
        """Ids of those that are loaded."""
        return self._bank.adapters

    @property
    def is_alive(self) -> bool:
        """Whether the compute thread and the server's loop run, and NCCL has not eaten threads."""
        return self._worker.is_alive() and grpc_loop().is_alive and self._nccl.is_healthy

    def stop(self) -> None:
        """Stop serving and end the threads."""
        grpc_loop().run(self._server.stop(0.2), _TIMEOUT_S)
        self._worker.stop()
        self._nccl.stop()


def show_held(metrics: MetricSet, bank: ExpertBank, server: ShardServer) -> None:
    """Metrics of what a shard holds, and for whom."""
    show = metrics.show_gauge
    show("galerne_shard_resident_bytes", "Bytes of experts.", lambda: bank.num_bytes)
    show("galerne_shard_experts", "Experts held, of all layers.", lambda: len(bank))
    show("galerne_shard_adapters", "LoRA adapters that are loaded.", lambda: len(bank.adapters))
    adopted = "Experts held for lost shards, of all layers."
    show("galerne_shard_adopted_experts", adopted, lambda: server.num_adopted)
    show("galerne_shard_gateways", "Gateways that are connected.", lambda: server.num_streams)
    newest = "Newest epoch that is served."
    show("galerne_shard_epoch", newest, lambda: max(server.epochs, default=0))
