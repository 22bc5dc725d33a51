"""The topology that someone asks for, made from the one that serves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain

from cluster.config import ServeConfig, load_config
from cluster.presets import PresetInputs, build_topology, names, transport_of
from galerne.errors import ConfigError
from galerne.ids import Epoch, ShardId
from galerne.topology import Placement, Topology
from router.api.cluster_port import TopologyWish

_OF_MODE = (
    "shards",
    "replicas",
    "transport",
    "micro_batches",
    "max_num_seqs",
    "max_batched_tokens",
)


def next_topology(
    current: Topology,
    inputs: PresetInputs,
    wish: TopologyWish,
    used_ids: Collection[str],
    staying: Collection[str] | None = None,
) -> tuple[PresetInputs, Topology]:
    """The settings with the wish in them, and their topology, with an epoch of its own.

    Parts that live stay where they can. A part that is new has an id that none had before
    (``used_ids``): what an old one still says must not be taken for its words.

    ``staying``: parts that may stay; unset: all.

    Raises:
        ConfigError: The wish contradicts itself; names the field.
    """
    if wish.replace_shard is not None:
        return inputs, _without_shard(current, wish, used_ids)
    inputs = inputs.with_config(wanted_config(inputs.config, wish))
    kept = current.parts if staying is None else staying
    gateways = [gateway for gateway in current.gateways if gateway in kept]
    shards = [shard for shard in current.shard_processes if shard in kept]
    return inputs, build_topology(
        inputs,
        Epoch(current.epoch + 1),
        _ids("gateway", gateways, used_ids),
        _ids("shard", shards, used_ids),
    )


def config_of(topology: Topology, config: ServeConfig) -> ServeConfig:
    """Settings from which ``topology`` would be built, for a controller that has only seen it.

    A transport that was left to us still is: else a wish for shards would be refused because
    there were none.
    """
    learnt = config.model_copy(
        update={
            "mode": topology.mode.value,
            "shards": len(topology.shard_processes) or None,
            "gateways": len(topology.gateways),
            "replicas": topology.placement.num_replicas,
            "micro_batches": topology.num_micro_batches,
            "max_num_seqs": topology.max_num_seqs,
            "max_batched_tokens": topology.max_batched_tokens,
        }
    )
    try:
        if transport_of(learnt, topology.mode) is topology.transport:
            return learnt
    except ConfigError:  # another was wished for since the start
        pass
    return learnt.model_copy(update={"transport": topology.transport.value})


def check_alone(wish: TopologyWish, field: str) -> None:
    """Raises ConfigError if more than this is wished for."""
    others = [n for n in wish.__slots__ if n != field and getattr(wish, n) is not None]
    if others:
        value = getattr(wish, field)
        raise ConfigError(field, value, f"goes alone, not with {', '.join(others)}")


def wanted_config(config: ServeConfig, wish: TopologyWish) -> ServeConfig:
    """The settings with a wish in them. Another mode takes its own number of shards.

    Raises:
        ConfigError: They contradict themselves; names the field.
    """
    changes = {n: v for n in wish.__slots__ if (v := getattr(wish, n)) is not None}
    if wish.mode is not None:
        defaults = {name: ServeConfig.model_fields[name].default for name in _OF_MODE}
        config = config.model_copy(update=defaults)
    return load_config(None, config.model_dump(exclude_defaults=True) | changes)


def _without_shard(current: Topology, wish: TopologyWish, used_ids: Collection[str]) -> Topology:
    """The same with a new shard in the place of one."""
    old = ShardId(wish.replace_shard or "")
    check_alone(wish, "replace_shard")
    if old not in current.shard_processes:
        known = ", ".join(current.shard_processes) or "none"
        raise ConfigError("replace_shard", old, f"is no shard; there are: {known}")
    fresh = ShardId(next(_ids("shard", (), {*used_ids, *current.shards})))

    def renamed(shards: tuple[ShardId, ...]) -> tuple[ShardId, ...]:
        return tuple(fresh if shard == old else shard for shard in shards)

    layers = current.placement.by_layer
    placement = Placement(tuple(tuple(map(renamed, layer)) for layer in layers))
    epoch = Epoch(current.epoch + 1)
    return replace(current, epoch=epoch, shards=renamed(current.shards), placement=placement)


def _ids(kind: str, living: Collection[str], used_ids: Collection[str]) -> Iterator[str]:
    numbers = [_number(part) for part in used_ids if part.startswith(f"{kind}-")]
    return chain(sorted(living, key=_number), names(kind, max(numbers, default=-1) + 1))


def _number(part: str) -> int:
    return int(part.rpartition("-")[2])
