"""The two modes as static topologies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

from cluster.config import ServeConfig
from galerne.errors import ConfigError
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement

FIRST_EPOCH = Epoch(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePreset:
    """What a mode sets where the user does not."""

    max_num_seqs: int
    max_batched_tokens: int
    row_budget: int  # rows a decode frame may have to wait for


PRESETS = {
    # Few sequences and short prefill chunks: a step stays short, so tokens come quickly.
    Mode.LATENCY: ModePreset(max_num_seqs=8, max_batched_tokens=256, row_budget=512),
    # Many sequences share one pass over the expert weights.
    Mode.THROUGHPUT: ModePreset(max_num_seqs=64, max_batched_tokens=1024, row_budget=4096),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetInputs:
    """What a topology is made from, besides the mode."""

    config: ServeConfig
    num_layers: int
    num_experts: int
    num_cores: int  # of this machine
    num_nodes: int

    def with_config(self, config: ServeConfig) -> PresetInputs:
        """The same machine and model."""
        return replace(self, config=config)


def build_topology(
    inputs: PresetInputs,
    epoch: Epoch = FIRST_EPOCH,
    gateway_ids: Iterable[str] | None = None,
    shard_ids: Iterable[str] | None = None,
) -> Topology:
    """The topology that the settings and the mode ask for.

    ``gateway_ids`` and ``shard_ids``: endless, taken in order; unset: numbered from 0.

    Latency without a number of shards: experts inside the gateway, no wire. Throughput: a shard per
    core, as far as there are experts, so that every core streams its own. Micro-batches are 1 on
    one node, where gateway and shards share cores and a split batch would only read expert weights
    twice.

    Raises:
        ConfigError: Settings that contradict one another.
    """
    config, num_experts = inputs.config, inputs.num_experts
    mode = Mode(config.mode)
    preset = PRESETS[mode]
    transport = transport_of(config, mode)
    num_shards = config.shards or (
        # No more than there are experts: a machine may have more cores.
        1 if transport is LinkTransport.LOCAL else min(max(2, inputs.num_cores), num_experts)
    )
    if num_shards > num_experts:
        problem = f"more shards than the model's {num_experts} experts"
        raise ConfigError("shards", num_shards, problem)
    if config.replicas > num_shards:
        raise ConfigError("replicas", config.replicas, f"more copies than the {num_shards} shards")
    shards = tuple(map(ShardId, islice(shard_ids or names("shard"), num_shards)))
    gateways = islice(gateway_ids or names("gateway"), config.gateways)
    max_num_seqs = config.max_num_seqs or preset.max_num_seqs
    return Topology(
        epoch=epoch,
        mode=mode,
        gateways=tuple(map(GatewayId, gateways)),
        shards=shards,
        placement=contiguous_placement(inputs.num_layers, num_experts, shards, config.replicas),
        transport=transport,
        num_micro_batches=config.micro_batches or _micro_batches(mode, inputs.num_nodes),
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max(
            config.max_batched_tokens or preset.max_batched_tokens, max_num_seqs
        ),
        row_budget=preset.row_budget,
    )


def _micro_batches(mode: Mode, num_nodes: int) -> int:
    return 2 if mode is Mode.THROUGHPUT and num_nodes > 1 else 1


def names(kind: str, first: int = 0) -> Iterator[str]:
    """``kind-0``, ``kind-1`` and so on."""
    return (f"{kind}-{number}" for number in count(first))


def transport_of(config: ServeConfig, mode: Mode) -> LinkTransport:
    """Between gateways and shards, as the settings and the mode ask for.

    Raises:
        ConfigError: Settings that contradict one another.
    """
    wants_shards = config.shards is not None and config.shards > 1
    if config.transport == "local":
        if wants_shards:
            problem = "local experts live in the gateway: one shard; use shm or grpc for several"
            raise ConfigError("shards", config.shards, problem)
        return LinkTransport.LOCAL
    if config.transport == "nccl" and config.shards is None:
        raise ConfigError("shards", None, "must be said with transport nccl: each takes a GPU")
    if config.transport != "auto":
        return LinkTransport(config.transport)
    has_shards = config.shards is not None or mode is Mode.THROUGHPUT
    return LinkTransport.SHM if has_shards else LinkTransport.LOCAL
