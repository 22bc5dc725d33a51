"""The gateway that repeats a record: the same build, all experts in the process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from galerne.clock import Clock
from galerne.errors import ConfigError, GalerneError
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement
from router.engine.engine import Engine
from router.engine.recording import StepRecorder
from router.engine.speculation.recorded import RecordedDrafting
from router.exchange.local import LocalExperts
from router.gateway.adapters import GatewayAdapters
from router.gateway.build import Progress, build_gateway
from router.gateway.record_file import RecordHeader
from router.gateway.settings import DTYPES, GatewaySettings
from router.gateway.sizes import BLOCK_SIZE
from router.guidance.guides import GuideMaker
from router.model.kv_cache import PagedLatentCache
from shards.adapters.directory import find_directory
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.open import open_checkpoint
from shards.kernels.formats import FORMATS

_SHARD = ShardId("here")


class AbsentExperts(LocalExperts):
    """Experts of this process that stay away for a step when they are told to."""

    _error: GalerneError | None = None

    def fail_next_step(self, error: GalerneError) -> None:
        """Let the next step fail with this error."""
        self._error = error

    def start_step(self, step: int) -> None:
        """See ``RoutedExperts``.

        Raises:
            GalerneError: It was to fail.
        """
        super().start_step(step)
        error, self._error = self._error, None
        if error is not None:
            raise error


class ReplayGateway(NamedTuple):
    """An engine whose thread is not started, its experts, and what its requests need."""

    engine: Engine
    experts: AbsentExperts
    drafting: RecordedDrafting  # what it is told of guesses
    guides: GuideMaker
    adapters: ReplayAdapters


class ReplayAdapters:
    """Loads adapters when the first request asks for them."""

    def __init__(self, adapters: GatewayAdapters, root: Path | None, model: ModelConfig) -> None:
        self._adapters, self._root, self._model = adapters, root, model

    def need(self, adapter_id: str) -> None:
        """Have an adapter, by its content; empty: none.

        Raises:
            ConfigError: It does not lie here.
        """
        if adapter_id and adapter_id not in self._adapters.ids:
            self._adapters.load(find_directory(self._root, adapter_id, self._model))


def build_replay(
    header: RecordHeader,
    num_threads: int,
    recorder: StepRecorder,
    clock: Clock,
    on_progress: Progress,
) -> ReplayGateway:
    """Load what the header names.

    Raises:
        ConfigError: This checkpoint or machine computes otherwise than the recorded one.
        CheckpointError: The checkpoint cannot be used.
    """
    opened = open_checkpoint(header.checkpoint)
    settings = _settings(header, opened.config, num_threads)
    _require("fingerprint", header.fingerprint, opened.fingerprint)
    _require("numerics_profile", header.numerics_profile, settings.profile)
    torch.set_num_threads(num_threads)  # of this thread, which is the engine's
    built = build_gateway(settings, None, lambda deltas: None, on_progress, recorder, clock)
    _require("num_blocks", header.num_blocks, built.engine.load().kv_blocks + 1)
    local = built.runner.exchange
    assert isinstance(local, LocalExperts)
    built.runner.exchange = experts = AbsentExperts(local.bank, [_SHARD])
    built.engine.drafting = drafting = RecordedDrafting()
    adapters = ReplayAdapters(built.adapters, header.adapters_root, opened.config)
    return ReplayGateway(built.engine, experts, drafting, built.guides, adapters)


def _settings(header: RecordHeader, config: ModelConfig, num_threads: int) -> GatewaySettings:
    scheduler = header.scheduler
    _require("block_size", scheduler.block_size, BLOCK_SIZE)
    gateway = GatewayId(header.gateway)
    topology = Topology(
        epoch=Epoch(header.epoch),
        mode=Mode.LATENCY,
        gateways=(gateway,),
        shards=(_SHARD,),
        placement=contiguous_placement(config.num_layers, config.num_experts, (_SHARD,)),
        transport=LinkTransport.LOCAL,
        num_micro_batches=1,
        max_num_seqs=scheduler.max_num_seqs,
        max_batched_tokens=scheduler.max_batched_tokens,
        row_budget=1,
    )
    per_block = PagedLatentCache.bytes_per_block(config, BLOCK_SIZE, DTYPES[header.numerics])
    return GatewaySettings(
        gateway_id=gateway,
        checkpoint=header.checkpoint,
        model_name=header.gateway,
        numerics=header.numerics,
        topology=topology,
        cluster_token="",
        max_model_len=scheduler.max_model_len,
        kv_bytes=header.num_blocks * per_block,
        max_waiting=scheduler.max_waiting,
        max_chunk_tokens=scheduler.max_chunk_tokens,
        num_threads=num_threads,
        experts=FORMATS[header.experts],
        dense=FORMATS[header.dense],
        adapters_root=header.adapters_root,
    )


def _require(what: str, recorded: object, here: object) -> None:
    if recorded != here:
        problem = f"the record was made with {recorded}: its tokens cannot be expected here"
        raise ConfigError(what, here, problem)
