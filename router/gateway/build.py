"""Puts one gateway together: checkpoint, decoder, cache, exchange, scheduler, engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from galerne.clock import Clock, MonotonicClock
from galerne.errors import ConfigError
from galerne.ids import ShardId
from galerne.topology import LinkTransport
from router.engine.block_hash import HashContext
from router.engine.block_pool import BlockPool
from router.engine.engine import Engine
from router.engine.gateway_port import ModelFacts
from router.engine.native_draws import draws_here
from router.engine.recorders import Recorders
from router.engine.recording import StepRecorder
from router.engine.request import GenerationRequest, TokenDelta
from router.engine.scheduler import Scheduler
from router.engine.stepper import Stepper
from router.exchange.grpc_link import AddressBook
from router.exchange.links import LinkState
from router.exchange.metrics import show_exchange
from router.gateway.adapters import GatewayAdapters
from router.gateway.draft_head import find_head, head_block_bytes
from router.gateway.experts import ExpertSources
from router.gateway.recorder import create_recorder
from router.gateway.settings import GatewaySettings
from router.gateway.sizes import BLOCK_SIZE, least_blocks
from router.gateway.speculate import create_drafting, load_head
from router.gateway.switch import TopologySwitch, scheduler_limits, threads_beside
from router.gateway.trace import create_tracer, watching
from router.gateway.warm import warm_gateway
from router.guidance.guides import GuideMaker
from router.model.decoder import Decoder
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner
from router.model.step_runner import StepRunner
from router.model.vision import VisionTower
from router.tracing.gateway import GatewayTracer
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.weights import Checkpoint
from shards.kernels.kinds import CUDA
from shards.kernels.native.library import set_spin
from shards.kernels.threads import KernelThreads
from shards.nccl.process import NcclProcess

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # (what, done, of)


class BuiltGateway(NamedTuple):
    """A gateway that is ready to start."""

    engine: Engine
    runner: PagedRunner
    facts: ModelFacts
    num_kv_tokens: int
    switch: TopologySwitch
    guides: GuideMaker
    adapters: GatewayAdapters
    tracer: GatewayTracer | None
    nccl: NcclProcess


def build_gateway(
    settings: GatewaySettings,
    book: AddressBook | None,
    on_deltas: Callable[[Sequence[TokenDelta]], None],
    on_progress: Progress,
    recorder: StepRecorder | None = None,
    clock: Clock | None = None,
    on_link_change: Callable[[], None] = lambda: None,
) -> BuiltGateway:
    """Load and connect; ``book`` is needed for links to shards only.

    ``on_link_change`` is called on the engine's thread. ``recorder`` unset: that of the settings;
    ``clock`` unset: the process' own.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DeviceFullError: Experts do not fit on the GPU.
        ConfigError: The KV cache holds less than one request of full length.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    topology = settings.topology
    head = find_head(settings.speculation, settings.checkpoint, checkpoint.config)
    num_blocks = _num_blocks(settings, checkpoint, head_block_bytes(head, settings.dtype.itemsize))
    facts = _facts(settings, checkpoint)
    scheduler_config = scheduler_limits(settings, topology)
    if recorder is None:
        recorder = create_recorder(settings, facts, num_blocks, scheduler_config)
    tracer = create_tracer(settings, facts.num_layers)
    if tracer is not None:
        recorder = Recorders(recorder, tracer)
    decoder = Decoder(
        checkpoint,
        settings.dtype,
        settings.num_threads,
        settings.dense,
        lambda n, of: on_progress("layers", n, of),
        threads_beside(settings, topology),
        settings.device,
    )
    set_spin(owns_cores=topology.transport is LinkTransport.LOCAL)
    cache = PagedLatentCache(
        checkpoint.config, num_blocks, BLOCK_SIZE, settings.dtype, settings.device
    )

    def link_changed(shard: ShardId, state: LinkState) -> None:
        recorder.fault_noticed(shard, state.value)
        on_link_change()

    sources = ExpertSources(settings, checkpoint, book, link_changed)
    experts = sources.experts_of(topology, lambda n, of: on_progress("experts", n, of))
    has_vision = checkpoint.config.vision is not None
    tower = None
    if has_vision:
        threads = KernelThreads(settings.num_threads)
        tower = VisionTower(checkpoint, settings.dtype, threads, settings.device)
    runner = PagedRunner(
        decoder, cache, experts, tower, topology.num_micro_batches, settings.vision
    )
    pool = BlockPool(num_blocks, BLOCK_SIZE)
    scheduler = Scheduler(scheduler_config, pool, _hash_contexts(facts))
    config = checkpoint.config
    step_runner = StepRunner(runner, settings.num_threads)
    clock = clock or MonotonicClock()
    draws = draws_here(settings.num_threads)
    eagle = load_head(settings, head, runner)
    engine = Engine(
        scheduler,
        pool,
        step_runner,
        Stepper(scheduler, config.vocab_size, config.eos_token_id, draws),
        clock,
        settings.max_waiting,
        on_deltas,
        recorder,
        create_drafting(settings, eagle, runner, clock, draws),
    )
    show_exchange(engine.metrics.set, lambda: runner.exchange)
    if tracer is not None:
        tracer.watch = watching(engine, runner)
    switch = TopologySwitch(settings, sources, engine, runner, decoder)
    guides = GuideMaker(settings.checkpoint, config.vocab_size)
    root = settings.adapters_root
    adapters = GatewayAdapters(
        *(root, engine, scheduler, step_runner, decoder, sources, settings.dtype.itemsize)
    )
    adapters.load_known(settings.adapters)
    if settings.device == CUDA:
        warm_gateway(settings, scheduler_config, runner, eagle, tower, on_progress)
    num_tokens = pool.num_usable * BLOCK_SIZE
    return BuiltGateway(
        *(engine, runner, facts, num_tokens, switch, guides, adapters, tracer, sources.nccl)
    )


def _num_blocks(settings: GatewaySettings, checkpoint: Checkpoint, beside: int) -> int:
    """Blocks that fit, each with ``beside`` bytes of the head's own cache."""
    per_block = PagedLatentCache.bytes_per_block(checkpoint.config, BLOCK_SIZE, settings.dtype)
    per_block += beside
    num_blocks = settings.kv_bytes // per_block
    if num_blocks < least_blocks(settings.max_model_len):
        raise ConfigError(
            "kv_memory",
            settings.kv_bytes,
            f"holds {num_blocks * BLOCK_SIZE} tokens of {per_block // BLOCK_SIZE} bytes, less than "
            f"one request of max_model_len={settings.max_model_len}",
        )
    return num_blocks


def _hash_contexts(facts: ModelFacts) -> Callable[[GenerationRequest], HashContext]:
    def context(request: GenerationRequest) -> HashContext:
        return HashContext(
            model_fingerprint=facts.fingerprint,
            numerics_profile=facts.numerics_profile,
            mla_form="absorbed",
            adapter=request.adapter,
            salt=request.cache_salt,
        )

    return context


def _facts(settings: GatewaySettings, checkpoint: Checkpoint) -> ModelFacts:
    config, vision = checkpoint.config, checkpoint.config.vision
    facts = ModelFacts(
        name=settings.model_name,
        fingerprint=checkpoint.fingerprint,
        numerics_profile=settings.profile,
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
