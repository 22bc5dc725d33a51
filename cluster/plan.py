"""From settings and a checkpoint to what will be started. Reads headers and memory sizes only."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.actors.launch_spec import LaunchSpec
from cluster.amounts import kv_bytes, kv_share, num_bytes
from cluster.config import ServeConfig
from cluster.demo import MODEL_NAME
from cluster.gateway_machines import GatewayMachines, gateway_machines
from cluster.gpu_free import free_gpus_here
from cluster.gpu_memory import Beside, FreeGpus, gpu_memory, kept_shape
from cluster.gpu_plan import device_rooms, fit_on_gpus
from cluster.named_files import checkpoint_directory, internal_tls, tokenizer_directory
from cluster.nccl_check import check_nccl
from cluster.planning.enumerate import largest_caps
from cluster.planning.gpu_memory import CacheRule, GpuMemory
from cluster.planning.shape import ModelShape, shape_of
from cluster.presets import PRESETS, PresetInputs, build_topology
from galerne.errors import ConfigError
from galerne.topology import LinkTransport, Topology
from galerne.units import size_text
from router.engine.speculation.settings import SpeculationSettings
from router.gateway.draft_head import find_head, head_block_bytes
from router.gateway.sizes import BLOCK_SIZE, NUMBER_BYTES, least_blocks
from router.model.cache_size import block_bytes
from router.model.device_sizes import StepLimits
from shards.adapters.sizes import directory_ranks
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import EagleCheckpoint
from shards.checkpoint.open import open_checkpoint
from shards.kernels.device_sizes import kept_on_gpu
from shards.kernels.formats import FORMATS, WeightFormat
from shards.kernels.kinds import CPU, CUDA
from shards.kernels.native.families import has_kernels, takes

DEFAULT_MAX_MODEL_LEN = 32_768
EMBEDDED_VOCAB_SIZE = 8192  # of router/chat/data/tekken-8k.json


def resident_bytes(
    config: ServeConfig,
    model: ModelConfig,
    topology: Topology,
    formats: tuple[WeightFormat, WeightFormat],
) -> int:
    """Weights over all processes as they are computed with, whatever format they are stored in.

    ``formats``: of routed experts, and of the dense weights.
    """
    width = NUMBER_BYTES[config.numerics]
    # Where torch computes, experts are rounded as if they had fewer bits, and are no smaller.
    is_native = has_kernels(config.numerics, model.hidden_size)
    shape = shape_of(model, *(formats if is_native else (WeightFormat.BF16, WeightFormat.BF16)))
    num_gateways = len(topology.gateways)
    copies = num_gateways if topology.transport is LinkTransport.LOCAL else config.replicas
    as_bf16 = shape.routed_bytes * copies + shape.dense_bytes * num_gateways
    return int(as_bf16 * width / NUMBER_BYTES["bf16"])


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A checkpoint and how its weights will be held."""

    path: Path
    config: ModelConfig
    experts: WeightFormat
    dense: WeightFormat
    device: str = CPU
    shard_device: str = CPU

    @property
    def kept_experts(self) -> WeightFormat:
        """As they are held; where GPUs and cores may hold them, as cores do."""
        on_gpus = self.shard_device == CUDA
        return kept_on_gpu(self.config, self.experts) if on_gpus else self.experts

    @property
    def gpu_experts(self) -> WeightFormat:
        """As a GPU holds them, whoever else does."""
        return kept_on_gpu(self.config, self.experts)

    @property
    def kept_dense(self) -> WeightFormat:
        """As they are held."""
        return kept_on_gpu(self.config, self.dense) if self.device == CUDA else self.dense

    @property
    def shape(self) -> ModelShape:
        """Its sizes as held."""
        return kept_shape(self.config, self.kept_experts, self.kept_dense)


def held_model(config: ServeConfig) -> HeldModel:
    """Open the checkpoint that the settings name; unset: the embedded model.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: It cannot be held in the formats asked for.
    """
    path = checkpoint_directory(config)
    model = open_checkpoint(path).config
    formats = held_formats(config, model)
    return HeldModel(path, model, *formats, config.device, config.shard_device)


def weight_format(
    config: ServeConfig, setting: Literal["experts", "dense"], stored: WeightFormat
) -> WeightFormat:
    """How weights are held: as asked for, or as the checkpoint has them (``stored``).

    Raises:
        ConfigError: Less than bf16 with float32 arithmetic, or codes to be made of other codes.
    """
    asked: str | None = getattr(config, setting)
    is_float32 = config.numerics != "bf16"
    chosen = asked or ("bf16" if is_float32 else stored.label)
    if chosen != "bf16" and is_float32:
        problem = f"goes with numerics bf16, not {config.numerics}"
        raise ConfigError(setting, chosen, problem)
    if stored is not WeightFormat.BF16 and chosen not in ("bf16", stored.label):
        problem = f"the checkpoint holds {stored.label} already: leave it out, or say bf16"
        raise ConfigError(setting, chosen, problem)
    return FORMATS[chosen]


def held_formats(config: ServeConfig, model: ModelConfig) -> tuple[WeightFormat, WeightFormat]:
    """Of routed experts, and of the dense weights, which only native kernels hold in codes.

    Raises:
        ConfigError: See ``weight_format``.
    """
    is_native = has_kernels(config.numerics, model.hidden_size)
    dense = model.dense_held if is_native and takes(model) else WeightFormat.BF16
    experts = weight_format(config, "experts", model.experts_held)
    return experts, weight_format(config, "dense", dense)


def _adapters_root(config: ServeConfig) -> Path | None:
    if config.adapters is None:
        return None
    if not config.adapters.is_dir():
        raise ConfigError("adapters", config.adapters, "is not a directory")
    return config.adapters.resolve()


def held_speculation(
    config: ServeConfig, held: HeldModel
) -> tuple[SpeculationSettings, EagleCheckpoint | None]:
    """Who will guess, and the head that does, if one does.

    Raises:
        ConfigError: A head is asked for, and there is none.
        CheckpointError: It cannot be used with this model.
    """
    settings = SpeculationSettings(
        speculative=config.speculative,
        num_draft_tokens=config.num_draft_tokens,
        draft_model=None if config.draft_model is None else config.draft_model.resolve(),
    )
    return settings, find_head(settings, held.path, held.config)


def longest_request(config: ServeConfig, model: ModelConfig) -> int:
    """Tokens of prompt and output."""
    return min(config.max_model_len or DEFAULT_MAX_MODEL_LEN, model.max_position_embeddings)


def gpu_memory_of(config: ServeConfig, held: HeldModel, free: FreeGpus) -> GpuMemory:
    """What parts take of GPUs as the settings have it; reads headers alone.

    Raises:
        ConfigError: Settings contradict one another.
        CheckpointError: The Eagle head cannot be used.
    """
    _, head = held_speculation(config, held)
    root, most = _adapters_root(config), largest_caps()
    if config.adapter_memory is not None and root is None:
        raise ConfigError("adapter_memory", config.adapter_memory, "goes with adapters")
    fraction, amount = kv_share(config.kv_memory)
    return gpu_memory(
        held.config,
        (held.gpu_experts, held.kept_dense),
        NUMBER_BYTES[config.numerics],
        StepLimits(
            sequences=max(most[0], config.max_num_seqs or 0),
            tokens=max(most[1], config.max_batched_tokens or 0, config.max_num_seqs or 0),
            length=longest_request(config, held.config),
        ),
        free,
        Beside(
            vision=config.images.vision,
            head=None if head is None else head.config,
            adapters=None if root is None else directory_ranks(root, held.config),
            adapter_bytes=None
            if config.adapter_memory is None
            else num_bytes("adapter_memory", config.adapter_memory),
        ),
        CacheRule(fraction, amount),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePlan:
    """What ``galerne serve`` is going to start."""

    spec: LaunchSpec
    tokenizer_directory: Path | None  # None: the embedded tokenizer
    kv_note: str
    weight_bytes: int  # over all processes
    free_bytes: int  # that are left on this machine


def plan_serving(
    config: ServeConfig,
    app_name: str,
    num_nodes: int,
    machines: GatewayMachines | None = None,
    free_gpus: Callable[[], FreeGpus] = free_gpus_here,
) -> ServePlan:
    """Check the checkpoint, size the KV pool, lay out the topology.

    Args:
        config: As the user gave it.
        app_name: Of the deployment.
        num_nodes: Of the Ray cluster, with those that may come.
        machines: That gateways may be placed on; None: this one.
        free_gpus: Asks for the free bytes of GPUs, where parts compute on such.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ConfigError: Settings contradict one another, or it does not fit in memory.
    """
    held = held_model(config)
    path, model = held.path, held.config
    machines = machines or gateway_machines(())
    num_cores = machines.num_cores
    inputs = PresetInputs(
        config=config,
        num_layers=model.num_layers,
        num_experts=model.num_experts,
        num_cores=num_cores,
        num_nodes=num_nodes,
    )
    topology = build_topology(inputs)
    check_nccl(topology, num_nodes)
    if num_nodes > 1 and config.internal_tls is None and not config.insecure_network:
        problem = f"the Ray cluster has {num_nodes} nodes and internal_tls is not set"
        raise ConfigError("insecure_network", config.insecure_network, problem)
    max_model_len = longest_request(config, model)
    tokenizer = tokenizer_directory(path)
    if tokenizer is None and model.vocab_size < EMBEDDED_VOCAB_SIZE:
        problem = f"has no tekken.json, and its {model.vocab_size} ids are fewer than the embedded "
        raise ConfigError("model", path, problem + f"tokenizer's {EMBEDDED_VOCAB_SIZE}")
    speculation, head = held_speculation(config, held)
    memory = None
    if config.device == CUDA:
        memory = gpu_memory_of(config, held, free_gpus())
        resident, free = fit_on_gpus(config, held, topology, memory)
    else:
        resident = resident_bytes(config, model, topology, (held.experts, held.dense))
        free = machines.free_bytes - (resident if num_nodes == 1 else 0)
        if free <= 0:
            text = f"weights take {size_text(resident)}, more than the memory that is available"
            raise ConfigError("model", path, text)
    per_gateway = kv_bytes(config.kv_memory, free) // len(topology.gateways)
    width = NUMBER_BYTES[config.numerics]
    per_token = block_bytes(model, BLOCK_SIZE, width)
    per_token += head_block_bytes(head, width)
    per_token //= BLOCK_SIZE
    # The cache stays as it is when the mode changes: it is made for the one with most sequences.
    num_seqs = max(topology.max_num_seqs, *(preset.max_num_seqs for preset in PRESETS.values()))
    most = num_seqs * (max_model_len + BLOCK_SIZE)
    kv_tokens = min(per_gateway // per_token, most)
    if kv_tokens // BLOCK_SIZE < least_blocks(max_model_len):
        problem = f"holds {kv_tokens} tokens, less than one request of {max_model_len}"
        raise ConfigError("kv_memory", config.kv_memory, problem + "; or lower max_model_len")
    note = (
        f"KV pool {size_text(kv_tokens * per_token)} per gateway: {kv_tokens} tokens, "
        f"{kv_tokens / max_model_len:.1f} requests of {max_model_len}"
    )
    kv_memory = min(per_gateway, (most + BLOCK_SIZE) * per_token)
    spec = LaunchSpec(
        app_name=app_name,
        checkpoint=path,
        model_name=config.served_model_name or (MODEL_NAME if config.model is None else path.name),
        numerics=config.numerics,
        experts=held.experts,
        dense=held.dense,
        device=config.device,
        shard_device=config.shard_device,
        topology=topology,
        inputs=inputs,
        expert_bytes=int(held.shape.expert_bytes),
        cluster_token=secrets.token_hex(32),
        tls=internal_tls(config),
        trusts_network=config.trusted_network == "nccl",
        max_model_len=max_model_len,
        kv_bytes=kv_memory,
        gateway_threads=machines.threads_of_each(len(topology.gateways)),
        gateway_threads_beside=1 if num_nodes == 1 else None,
        shard_threads=1,
        is_one_node=num_nodes == 1,
        vision=config.images.vision,
        speculation=speculation,
        record=None if config.record is None else config.record.resolve(),
        adapters=_adapters_root(config),
        device_rooms=device_rooms(memory, topology, config, kv_memory),
        tracing=config.traces,
        logs=config.logs,
    )
    return ServePlan(
        spec=spec,
        tokenizer_directory=tokenizer,
        kv_note=note,
        weight_bytes=resident,
        free_bytes=free,
    )
