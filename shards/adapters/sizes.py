"""What adapters take of a GPU, by their ranks alone. Loads no torch, and no numbers of a file.

Matrices are held in the rows' dtype with ranks filled up to a multiple of 16, as
``shards.kernels.gpu.low_rank`` puts them; tables that say where they are come with the first one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from galerne.adapters import MAX_ADAPTERS
from galerne.errors import CheckpointError
from shards.adapters.config import WEIGHTS_NAME, LoraConfig, read_lora_config
from shards.adapters.names import Target, find_stack, find_target, parse_tensor_name
from shards.adapters.stacked import orient
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.safetensors_file import SafetensorsFile
from shards.kernels.device_sizes import Tensors, times

if TYPE_CHECKING:
    from shards.adapters.adapter import Adapter
    from shards.adapters.low_rank import ExpertLowRank

_RANKS: Final = 16
_TABLE_BYTES: Final = (3 * 8, 4)  # of a change: where its matrices are, and its scale

Ranks: TypeAlias = Mapping[Target, int]  # of what an adapter changes


class AdapterTensors(NamedTuple):
    """Of one adapter: with the dense weights of a gateway, and with all routed experts."""

    dense: Tensors
    routed: Tensors


def adapter_tensors(ranks: Ranks, config: ModelConfig, number_bytes: int) -> AdapterTensors:
    """Matrices on the device; ``number_bytes`` of the rows' dtype."""
    dense: Tensors = Counter()
    routed: Tensors = Counter()
    by_layer: dict[int, dict[str, int]] = {}
    for (layer, name, expert), rank in ranks.items():
        if expert is not None:
            routed += expert_tensors(name, rank, (config.hidden_size, config.expert_size))
        elif name.startswith("shared_"):
            size = config.hidden_size, config.shared_size
            dense += expert_tensors(name.removeprefix("shared_"), rank, size)
        else:
            by_layer.setdefault(layer, {})[name] = rank
    for of_layer in by_layer.values():
        dense += _attention_tensors(of_layer, config)
    return AdapterTensors(_in_bytes(dense, number_bytes), _in_bytes(routed, number_bytes))


def table_tensors(config: ModelConfig) -> AdapterTensors:
    """What the first adapter brings besides, if it changes every kind of weight."""
    dense = times(_table(MAX_ADAPTERS), 5) + _expert_tables(1)
    routed = _expert_tables(config.num_experts)
    return AdapterTensors(times(dense, config.num_layers), times(routed, config.num_layers))


def expert_tensors(name: str, rank: int, size: tuple[int, int]) -> Tensors:
    """Numbers of the two matrices of gate, up or down; ``size``: hidden size and width."""
    hidden, width = size
    return _pair(rank, width, hidden) if name == "down" else _pair(rank, hidden, width)


def change_tensors(change: ExpertLowRank, config: ModelConfig, number_bytes: int) -> Tensors:
    """Of what an adapter changes of a routed expert."""
    found: Tensors = Counter()
    for name, low in zip(change._fields, change, strict=True):
        if low is not None:
            found += expert_tensors(name, len(low.down), (config.hidden_size, config.expert_size))
    return _in_bytes(found, number_bytes)


def ranks_of(adapter: Adapter) -> Ranks:
    """Of an opened one."""
    found = {
        Target(layer, name, None): len(low.down) for (layer, name), low in adapter.dense.items()
    }
    for layer, of_shared in adapter.shared.items():
        found |= _ranks_of_expert(of_shared, layer, None, "shared_")
    for (layer, expert), of_expert in adapter.routed.items():
        found |= _ranks_of_expert(of_expert, layer, expert, "")
    return found


def _ranks_of_expert(
    change: ExpertLowRank, layer: int, expert: int | None, prefix: str
) -> dict[Target, int]:
    parts = zip(change._fields, change, strict=True)
    return {
        Target(layer, prefix + name, expert): len(low.down)
        for name, low in parts
        if low is not None
    }


def ranks_in(directory: Path, config: ModelConfig) -> Ranks:
    """Of the adapter in a directory, by its settings and the header of its file.

    What opening it would refuse is left out.

    Raises:
        CheckpointError: A file is missing or damaged, or asks for more than plain LoRA.
    """
    lora = read_lora_config(directory)
    entries = SafetensorsFile(directory / WEIGHTS_NAME).entries
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}  # by module and part
    for name, entry in entries.items():
        tensor = parse_tensor_name(name)
        if tensor is not None:
            shapes.setdefault(tensor.module, {})[tensor.part] = entry.shape
    found: dict[Target, int] = {}
    stacks: dict[int, dict[str, tuple[int, int]]] = {}  # shapes by layer and module
    for module, by_part in shapes.items():
        target, layer = find_target(module, config), find_stack(module, config)
        if target is not None:
            found[target] = lora.rank_of(module)
        elif layer is not None and by_part.keys() == {"A", "B"}:
            stacks.setdefault(layer, {})[module] = by_part["B"][0], by_part["A"][-1]
    for layer, of_layer in stacks.items():
        found |= dict(_of_stacks(layer, of_layer, lora, config))
    return found


def _of_stacks(
    layer: int, shapes: Mapping[str, tuple[int, int]], lora: LoraConfig, config: ModelConfig
) -> Iterator[tuple[Target, int]]:
    how = orient(list(shapes.values()), config) or ()
    for module, one in zip(shapes, how, strict=False):
        names = ("down",) if one.is_down else ("gate", "up")
        for expert, name in itertools.product(range(config.num_experts), names):
            yield Target(layer, name, expert), lora.rank_of(module)


def directory_ranks(root: Path, config: ModelConfig) -> list[Ranks]:
    """Of all adapters in a deployment's directory that can be read; others are refused later."""
    found = []
    for path in sorted(root.iterdir()):
        try:
            found.append(ranks_in(path, config))
        except CheckpointError:
            continue
    return [ranks for ranks in found if ranks]


def largest_rank(adapters: Iterable[Ranks]) -> int:
    """Of any change, as it is filled up; 0: there is none."""
    return _padded(max((rank for ranks in adapters for rank in ranks.values()), default=0))


def _attention_tensors(ranks: Mapping[str, int], config: ModelConfig) -> Tensors:
    """Numbers of matrices of one layer; as ``router.model.triton_adapters`` puts them."""
    heads, latent = config.num_heads, config.kv_lora_rank
    found: Tensors = Counter()
    both = ranks.get("q_a", 0) + ranks.get("kv_a", 0)
    for rank, num_in, num_out in (
        (both, config.hidden_size, config.q_lora_rank + config.latent_dim),
        (ranks.get("q_b", 0), config.q_lora_rank, heads * config.qk_head_dim),
        (ranks.get("o", 0), heads * config.v_head_dim, config.hidden_size),
    ):
        if rank:
            found += _pair(rank, num_in, num_out)
    if "kv_b" in ranks:
        rank = _padded(ranks["kv_b"])
        for width in (config.qk_nope_head_dim, config.v_head_dim):
            found[heads * rank * width] += 1
            found[latent * rank] += 1
    return found


def _pair(rank: int, num_in: int, num_out: int) -> Tensors:
    return Counter([_padded(rank) * num_in]) + Counter([_padded(rank) * num_out])


def _padded(rank: int) -> int:
    return rank + -rank % _RANKS


def _table(num_changes: int) -> Tensors:
    return Counter([num_changes * size for size in _TABLE_BYTES])


def _expert_tables(num_experts: int) -> Tensors:
    """Of gate, up and down, which experts are changed, keys of adapters, and their numbers."""
    count = MAX_ADAPTERS * num_experts
    return times(_table(count), 3) + Counter([count]) + Counter({8 * MAX_ADAPTERS: 2})


def _in_bytes(numbers: Tensors, number_bytes: int) -> Tensors:
    return Counter({number_bytes * size: count for size, count in numbers.items()})
