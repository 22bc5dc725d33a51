"""Puts one gateway together: checkpoint, decoder, cache, exchange, scheduler, engine."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from galerne.clock import Clock, MonotonicClock
from galerne.errors import ConfigError
from galerne.hello import Hello
from galerne.topology import LinkTransport
from router.engine.block_hash import HashContext
from router.engine.block_pool import BlockPool
from router.engine.engine import Engine
from router.engine.gateway_port import ModelFacts
from router.engine.recording import StepRecorder
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.stepper import Stepper
from router.exchange.exchange import ExpertExchange
from router.exchange.grpc_link import AddressBook
from router.exchange.grpc_transport import GrpcTransport
from router.exchange.links import OnLinkChange
from router.exchange.local import LocalExperts
from router.exchange.session import ExchangeSession
from router.exchange.shm_transport import ShmTransport
from router.exchange.transport import Transport
from router.gateway.recorder import create_recorder
from router.gateway.settings import BLOCK_SIZE, GatewaySettings, numerics_profile
from router.model.decoder import Decoder
from router.model.experts_port import RoutedExperts
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner
from router.model.step_runner import StepRunner
from router.model.vision import VisionTower
from shards.bank import ExpertBank
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.weights import Checkpoint
from shards.kernels.threads import KernelThreads

logger = logging.getLogger(__name__)

# A ring takes frames of up to half its size: the largest, and the indices that go with its rows.
_RING_SPARE_BYTES = 1 << 18
_MAX_RING_BYTES = 32 << 20

Progress = Callable[[str, int, int], None]  # (what, done, of)


class BuiltGateway(NamedTuple):
    """A gateway that is ready to start."""

    engine: Engine
    runner: PagedRunner
    facts: ModelFacts
    num_kv_tokens: int


def build_gateway(
    settings: GatewaySettings,
    book: AddressBook | None,
    on_deltas: Callable[[Sequence[TokenDelta]], None],
    on_progress: Progress,
    recorder: StepRecorder | None = None,
    clock: Clock | None = None,
) -> BuiltGateway:
    """Load and connect; ``book`` is needed for grpc links only.

    ``recorder`` unset: the one of the settings; ``clock`` unset: the process' own.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: The KV cache holds less than one request of full length.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    topology = settings.topology
    num_blocks = _num_blocks(settings, checkpoint)
    facts = _facts(settings, checkpoint)
    scheduler_config = _scheduler_config(settings)
    if recorder is None:
        recorder = create_recorder(settings, facts, num_blocks, scheduler_config)
    decoder = Decoder(
        checkpoint,
        settings.dtype,
        settings.num_threads,
        settings.dense,
        lambda n, of: on_progress("layers", n, of),
        settings.num_beside,
    )
    cache = PagedLatentCache(checkpoint.config, num_blocks, BLOCK_SIZE, settings.dtype)
    experts = _experts(
        settings,
        checkpoint,
        book,
        on_progress,
        lambda shard, state: recorder.fault_noticed(shard, state.value),
    )
    has_vision = checkpoint.config.vision is not None
    tower = None
    if has_vision:
        tower = VisionTower(checkpoint, settings.dtype, KernelThreads(settings.num_threads))
    runner = PagedRunner(decoder, cache, experts, tower, topology.num_micro_batches)
    pool = BlockPool(num_blocks, BLOCK_SIZE)
    scheduler = Scheduler(scheduler_config, pool, _hash_contexts(facts))
    config = checkpoint.config
    engine = Engine(
        scheduler,
        pool,
        StepRunner(runner, settings.num_threads),
        Stepper(scheduler, config.vocab_size, config.eos_token_id),
        clock or MonotonicClock(),
        settings.max_waiting,
        on_deltas,
        recorder,
    )
    return BuiltGateway(engine, runner, facts, pool.num_usable * BLOCK_SIZE)


def _num_blocks(settings: GatewaySettings, checkpoint: Checkpoint) -> int:
    per_block = PagedLatentCache.bytes_per_block(checkpoint.config, BLOCK_SIZE, settings.dtype)
    topology = settings.topology
    most = topology.max_num_seqs * -(-settings.max_model_len // BLOCK_SIZE) + 1
    num_blocks = min(settings.kv_bytes // per_block, most)
    if (num_blocks - 1) * BLOCK_SIZE < settings.max_model_len:  # block 0 is nobody's
        raise ConfigError(
            "kv_memory",
            settings.kv_bytes,
            f"holds {num_blocks * BLOCK_SIZE} tokens of {per_block // BLOCK_SIZE} bytes, less than "
            f"one request of max_model_len={settings.max_model_len}",
        )
    return num_blocks


def _experts(
    settings: GatewaySettings,
    checkpoint: Checkpoint,
    book: AddressBook | None,
    on_progress: Progress,
    on_link_change: OnLinkChange,
) -> RoutedExperts:
    topology = settings.topology
    if topology.transport is LinkTransport.LOCAL:
        return _local_experts(settings, checkpoint, on_progress)
    if book is None:
        raise ConfigError("transport", topology.transport.value, "needs an address book")
    hello = Hello(
        gateway=settings.gateway_id,
        incarnation=secrets.randbits(64),
        fingerprint=checkpoint.fingerprint,
        numerics_profile=numerics_profile(settings.numerics, settings.experts, settings.dense),
        epoch=topology.epoch,
    )
    transport = _transport(settings, checkpoint.config, hello, book)
    session = ExchangeSession(topology, settings.exchange, on_link_change)
    return ExpertExchange(session, transport, MonotonicClock())


def _transport(
    settings: GatewaySettings, config: ModelConfig, hello: Hello, book: AddressBook
) -> Transport:
    topology = settings.topology
    links = (topology.shards, hello, settings.cluster_token, book)
    if topology.transport is LinkTransport.SHM:
        largest = topology.row_budget * config.hidden_size * settings.dtype.itemsize
        try:
            ring_bytes = min(2 * (largest + _RING_SPARE_BYTES), _MAX_RING_BYTES)
            return ShmTransport(*links, ring_bytes)
        except OSError as error:
            logger.warning("shared_memory_not_used reason=%s: frames go by gRPC", error)
    return GrpcTransport(*links)


def _local_experts(
    settings: GatewaySettings, checkpoint: Checkpoint, on_progress: Progress
) -> LocalExperts:
    """Every expert in this process, whatever shards the topology names."""
    config = checkpoint.config
    bank = ExpertBank(
        checkpoint,
        {layer: range(config.num_experts) for layer in range(config.num_layers)},
        settings.dtype,
        lambda n, of: on_progress("experts", n, of),
        settings.num_threads,
        settings.experts,
    )
    bank.prefault()
    return LocalExperts(bank, settings.topology.shards)


def _scheduler_config(settings: GatewaySettings) -> SchedulerConfig:
    topology = settings.topology
    return SchedulerConfig(
        max_num_seqs=topology.max_num_seqs,
        max_batched_tokens=topology.max_batched_tokens,
        max_chunk_tokens=min(settings.max_chunk_tokens, topology.max_batched_tokens),
        block_size=BLOCK_SIZE,
        max_waiting=settings.max_waiting,
        max_model_len=settings.max_model_len,
    )


def _hash_contexts(facts: ModelFacts) -> Callable[[GenerationRequest], HashContext]:
    def context(request: GenerationRequest) -> HashContext:
        return HashContext(
            model_fingerprint=facts.fingerprint,
            numerics_profile=facts.numerics_profile,
            mla_form="absorbed",
            salt=request.cache_salt,
        )

    return context


def _facts(settings: GatewaySettings, checkpoint: Checkpoint) -> ModelFacts:
    config, vision = checkpoint.config, checkpoint.config.vision
    facts = ModelFacts(
        name=settings.model_name,
        fingerprint=checkpoint.fingerprint,
        numerics_profile=numerics_profile(settings.numerics, settings.experts, settings.dense),
        max_model_len=settings.max_model_len,
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        num_experts=config.num_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        eos_token_id=config.eos_token_id,
        takes_images=vision is not None,
    )
    if vision is None:
        return facts
    return replace(
        facts,
        image_token_id=vision.image_token_id,
        patch_size=vision.patch_size,
        spatial_merge_size=vision.spatial_merge_size,
        max_image_size=vision.image_size,
    )
