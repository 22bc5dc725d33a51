"""Writes seeded random checkpoints in the Hugging Face layout, for tests, benches and demos."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from shards.checkpoint.config import ModelConfig
from shards.checkpoint.config_check import check_sizes
from shards.checkpoint.config_hf_write import hf_config
from shards.checkpoint.layout_hf import ON_DISK, TEXT_ONLY, hf_layout
from shards.checkpoint.names import Layout, Shape
from shards.checkpoint.safetensors_write import (
    TensorSpec,
    refuse_existing,
    write_json,
    write_safetensors,
)

MAX_FILE_BYTES = 5_000_000_000
BLOCK = 1 << 22  # weights drawn at once; part of the definition of a seed's weights
BF16_BYTES = 2
GATE_GAIN = 2.0  # makes routing decisive


def write_random_checkpoint(
    directory: Path, config: ModelConfig, seed: int, *, max_file_bytes: int = MAX_FILE_BYTES
) -> None:
    """Write a bf16 checkpoint whose weights depend on ``seed`` and each tensor's name alone.

    Embeddings have unit variance, linears a deviation of fan-in^-0.5 (the gate twice that), norms
    are 1 + 0.1 N. Memory stays near one block of 4 Mi weights, whatever the size. config.json is
    written last, so a directory left by an interrupted run does not open.

    Args:
        directory: Made if missing; must hold no checkpoint.
        config: Sizes; with a vision tower if ``vision`` is set. See ``presets.preset``.
        seed: Any integer.
        max_file_bytes: Data per file. A tensor is never split.

    Raises:
        FileExistsError: A checkpoint is there already.
        ValueError: The layout cannot say what the config says.
        CheckpointError: The sizes do not fit together.
    """
    content = hf_config(check_sizes("config.json", config))
    refuse_existing(directory)
    directory.mkdir(parents=True, exist_ok=True)
    layout = hf_layout(config, TEXT_ONLY if config.vision is None else ON_DISK)
    files = split_by_size(tensor_shapes(config, layout), max_file_bytes)
    names = _file_names(len(files))
    for name, shapes in zip(names, files, strict=True):
        specs = {tensor: TensorSpec("BF16", shape) for tensor, shape in shapes.items()}
        write_safetensors(directory / name, specs, _random_data(shapes, seed))
    if len(files) > 1:
        weight_map = {
            tensor: name for name, shapes in zip(names, files, strict=True) for tensor in shapes
        }
        total = sum(_num_bytes(shape) for shapes in files for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / "model.safetensors.index.json", index)
    write_json(directory / "config.json", content)


def tensor_shapes(config: ModelConfig, layout: Layout) -> dict[str, Shape]:
    """Shape of every tensor of the files, by its name there."""
    shapes = {source.name: source.shape for source in layout.dense.values()}
    for layer in range(config.num_layers):
        expert = layout.expert(layer, 0)
        shapes |= {source.name: source.shape for source in (*expert.gate_up, expert.down)}
    return shapes


def split_by_size(shapes: Mapping[str, Shape], max_bytes: int) -> list[dict[str, Shape]]:
    """Consecutive bf16 tensors in groups of at most ``max_bytes``, or of one tensor."""
    groups: list[dict[str, Shape]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = _num_bytes(shape)
        if groups[-1] and filled + size > max_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    return groups


def random_blocks(name: str, shape: Shape, seed: int) -> Iterator[torch.Tensor]:
    """A tensor's weights in order, flat bf16 pieces; every matrix of a stack has its own seed."""
    if len(shape) == 1:
        yield (1 + 0.1 * next(_noise(shape[0], seed, name))).to(torch.bfloat16)
        return
    std = _deviation(name, shape)
    matrices = shape[0] if len(shape) == 3 else 1
    for index in range(matrices):
        for block in _noise(math.prod(shape) // matrices, seed, name, index):
            yield block.mul_(std).to(torch.bfloat16)


def _deviation(name: str, shape: Shape) -> float:
    if name.endswith("embed_tokens.weight"):
        return 1.0
    is_convolution = len(shape) == 4
    fan_in = math.prod(shape[1:]) if is_convolution else shape[-1]
    gain = GATE_GAIN if name.endswith("mlp.gate.weight") else 1.0
    return float(gain * fan_in**-0.5)


def _noise(size: int, *seed_parts: object) -> Iterator[torch.Tensor]:
    digest = hashlib.sha256("/".join(map(str, seed_parts)).encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    for start in range(0, size, BLOCK):
        yield torch.randn(min(BLOCK, size - start), generator=rng)


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def _random_data(shapes: Mapping[str, Shape], seed: int) -> Iterator[torch.Tensor]:
    for name, shape in shapes.items():
        yield from random_blocks(name, shape, seed)


def _num_bytes(shape: Shape) -> int:
    return math.prod(shape) * BF16_BYTES
