"""A LoRA adapter in the PEFT format: opened, checked, and its parts as views of the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from galerne.errors import CheckpointError
from shards.adapters.config import CONFIG_NAME, WEIGHTS_NAME, LoraConfig, read_lora_config
from shards.adapters.low_rank import ExpertLowRank, LowRank
from shards.adapters.names import (
    CAN_BE_ADAPTED,
    Target,
    find_stack,
    find_target,
    parse_tensor_name,
    shape_of,
    why_not,
)
from shards.adapters.stacked import Stack, orient, unstacked
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.safetensors_file import SafetensorsFile

MAX_RANK = 256
_DTYPES = ("BF16", "F16", "F32")
_ID_DIGITS = 16  # 64 bits, as frames name an adapter
_READ_BYTES = 1 << 22
_K = TypeVar("_K")


def key_of(adapter_id: str) -> int:
    """An adapter's id as frames carry it; 0 for none and for what is no id."""
    is_id = len(adapter_id) == _ID_DIGITS and all(c in "0123456789abcdef" for c in adapter_id)
    return int(adapter_id, 16) if is_id else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An opened adapter. Tensors are views of the file."""

    id: str  # hexadecimal, of its content: the same files give the same id everywhere
    rank: int  # the largest
    dense: Mapping[tuple[int, str], LowRank] = field(repr=False)  # by layer and name in it
    shared: Mapping[int, ExpertLowRank] = field(repr=False)  # by layer
    routed: Mapping[tuple[int, int], ExpertLowRank] = field(repr=False)  # by layer and expert
    num_bytes: int

    @property
    def key(self) -> int:
        """The id as frames carry it."""
        return key_of(self.id)


def open_adapter(directory: Path, model: ModelConfig) -> Adapter:
    """Open and check the adapter in a directory; reads all of it once.

    Args:
        directory: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        model: What it is for.

    Raises:
        CheckpointError: Anything is missing, damaged, contradictory, or changes what cannot be
            changed: names the file, the tensor, what was expected and what was found.
    """
    if not directory.is_dir():
        raise CheckpointError(str(directory), None, "the directory of an adapter", "none")
    config = read_lora_config(directory)
    file = SafetensorsFile(directory / WEIGHTS_NAME)
    parts = _parts(file, config, model)
    if not parts:
        raise CheckpointError(str(file.path), None, "LoRA tensors", "none")
    dense = {(t.layer, t.name): low for t, low in parts.items() if t.expert is None}
    return Adapter(
        id=_digest(directory),
        rank=max(len(low.down) for low in parts.values()),
        dense={key: low for key, low in dense.items() if not key[1].startswith("shared_")},
        shared=_by_expert(
            {
                (layer, name.removeprefix("shared_")): low
                for (layer, name), low in dense.items()
                if name.startswith("shared_")
            }
        ),
        routed=_by_expert(
            {((t.layer, t.expert), t.name): p for t, p in parts.items() if t.expert is not None}
        ),
        num_bytes=sum(entry.num_bytes for entry in file.entries.values()),
    )


def _by_expert(parts: Mapping[tuple[_K, str], LowRank]) -> dict[_K, ExpertLowRank]:
    found: dict[_K, dict[str, LowRank]] = {}
    for (key, name), low in parts.items():
        found.setdefault(key, {})[name] = low
    return {key: ExpertLowRank(**changes) for key, changes in found.items()}


def _parts(file: SafetensorsFile, config: LoraConfig, model: ModelConfig) -> dict[Target, LowRank]:
    parts: dict[Target, LowRank] = {}
    stacks: dict[int, dict[str, Stack]] = {}  # by layer, then by module
    for module, by_part in _names_by_module(file).items():
        any_name = next(iter(by_part.values()))
        layer, target = find_stack(module, model), find_target(module, model)
        if layer is None and target is None:
            found = f"{why_not(module)} ({module})"
            raise CheckpointError(str(file.path), any_name, CAN_BE_ADAPTED, found)
        if len(by_part) != 2:
            raise CheckpointError(str(file.path), any_name, "both lora_A and lora_B", "one of them")
        rank = config.rank_of(module)
        if rank > MAX_RANK:
            raise CheckpointError(str(file.path), any_name, f"rank up to {MAX_RANK}", str(rank))
        if layer is not None:
            stack = _stack(file, by_part, rank, config.scale_of(module), model)
            stacks.setdefault(layer, {})[module] = stack
            continue
        assert target is not None
        num_out, num_in = shape_of(target, model)
        down = _tensor(file, by_part["A"], (rank, num_in))
        up = _tensor(file, by_part["B"], (num_out, rank))
        _put(parts, target, LowRank(down, up, config.scale_of(module)), file, any_name)
    for name, target, low in _of_stacks(file, stacks, model):
        _put(parts, target, low, file, name)
    return parts


def _of_stacks(
    file: SafetensorsFile, stacks: Mapping[int, Mapping[str, Stack]], model: ModelConfig
) -> Iterator[tuple[str, Target, LowRank]]:
    """What stacks change, with the name of one of their tensors; ``stacks`` by layer and module."""
    for layer, by_module in stacks.items():
        given, name = list(by_module.values()), f"{next(iter(by_module))}.lora_A.weight"
        how = orient([stack.shape for stack in given], model)
        if how is None:
            expected = "shapes that tell gate_up_proj and down_proj of the experts apart"
            found = ", ".join(str(list(stack.shape)) for stack in given)
            raise CheckpointError(str(file.path), name, expected, found)
        for stack, one in zip(given, how, strict=True):
            for target, low in unstacked(layer, stack, one, model):
                yield name, target, low


def _names_by_module(file: SafetensorsFile) -> dict[str, dict[str, str]]:
    names: dict[str, dict[str, str]] = {}
    for name in file.entries:
        tensor = parse_tensor_name(name)
        if tensor is None:
            raise CheckpointError(str(file.path), name, "X.lora_A.weight or X.lora_B.weight", name)
        names.setdefault(tensor.module, {})[tensor.part] = name
    return names


def _put(
    parts: dict[Target, LowRank], target: Target, low: LowRank, file: SafetensorsFile, name: str
) -> None:
    if target in parts:
        raise CheckpointError(str(file.path), name, "every module once", "another name for it")
    parts[target] = low


def _stack(
    file: SafetensorsFile,
    by_part: Mapping[str, str],
    rank: int,
    scale: float,
    model: ModelConfig,
) -> Stack:
    total = rank * model.num_experts
    num_in, num_out = file.entries[by_part["A"]].shape[-1:], file.entries[by_part["B"]].shape[:1]
    down = _tensor(file, by_part["A"], (total, *num_in))
    up = _tensor(file, by_part["B"], (*num_out, total))
    return Stack(down, up, scale)


def _tensor(file: SafetensorsFile, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    entry = file.entries[name]
    if entry.dtype not in _DTYPES:
        raise CheckpointError(str(file.path), name, f"one of {', '.join(_DTYPES)}", entry.dtype)
    if entry.shape != shape:
        raise CheckpointError(str(file.path), name, f"shape {list(shape)}", str(list(entry.shape)))
    tensor = file.tensor(name)
    if not tensor.isfinite().all():
        raise CheckpointError(str(file.path), name, "finite numbers", "NaN or infinity")
    return tensor


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        path = directory / name
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
    return digest.hexdigest()[:_ID_DIGITS]
