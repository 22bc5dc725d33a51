"""What a checkpoint holds, and what each shard of a cluster would hold of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from galerne.units import size_text
from shards.checkpoint.check import FP8
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.mapped import MappedCheckpoint
from shards.checkpoint.names import LayoutKind, Source
from shards.kernels.formats import WeightFormat

SHARD_COUNTS = (1, 2, 4, 8, 16, 32)
BF16_BYTES = 2


class Part(StrEnum):
    """Parts of the model that are placed or sized apart."""

    ROUTED_EXPERTS = "routed experts"
    SHARED_EXPERTS = "shared experts"
    ATTENTION = "attention"
    GATE_AND_NORMS = "gate and norms"
    EMBEDDING = "embedding"
    HEAD = "head"
    VISION = "vision"
    UNUSED = "not used"


class ShardBytes(NamedTuple):
    """Bytes of routed experts on the fullest of ``num_shards`` shards."""

    num_shards: int
    as_stored: int
    as_bf16: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSummary:
    """Sizes of a checkpoint. Bytes are those of tensor data in the files."""

    path: Path
    layout: LayoutKind
    weight_format: str  # of the routed experts: "bf16", "f32", "fp8", "int8" or "int4"
    config: ModelConfig
    fingerprint: str
    num_files: int
    num_tensors: int
    bytes_by_part: Mapping[Part, int]  # scales count to their weights
    kv_bytes_per_token: int  # all layers, bf16
    shard_bytes: tuple[ShardBytes, ...]

    @property
    def total_bytes(self) -> int:
        """All tensor data."""
        return sum(self.bytes_by_part.values())


def describe(checkpoint: MappedCheckpoint, path: Path) -> CheckpointSummary:
    """Summary of an open checkpoint, from its headers; hands out no tensor."""
    config = checkpoint.config
    bytes_by_part = _bytes_by_part(checkpoint)
    stored_dtype = checkpoint.tensors.entry(checkpoint.layout.expert(0, 0).down.name).dtype
    stored = "fp8" if stored_dtype == FP8 else stored_dtype.lower()
    if config.experts_held is not WeightFormat.BF16:
        stored = config.experts_held.label
    return CheckpointSummary(
        path=path,
        layout=checkpoint.layout.kind,
        weight_format=stored,
        config=config,
        fingerprint=checkpoint.fingerprint,
        num_files=len(checkpoint.tensors.files),
        num_tensors=len(checkpoint.tensors.file_by_tensor),
        bytes_by_part=bytes_by_part,
        kv_bytes_per_token=config.latent_dim * config.num_layers * BF16_BYTES,
        shard_bytes=tuple(
            _shard_bytes(config, bytes_by_part[Part.ROUTED_EXPERTS], count)
            for count in SHARD_COUNTS
        ),
    )


def part_of(name: str) -> Part:
    """The part that the dense weight of our ``name`` belongs to."""
    if name.startswith(("vision.", "projector.")):
        return Part.VISION
    if name in ("embed", "head"):
        return Part(Part.EMBEDDING if name == "embed" else Part.HEAD)
    short = name.rsplit(".", 1)[-1]
    if short.startswith("shared_"):
        return Part.SHARED_EXPERTS
    return Part.ATTENTION if short in ("q_a", "q_b", "kv_a", "kv_b", "o") else Part.GATE_AND_NORMS


def render(summary: CheckpointSummary) -> list[str]:
    """The summary as lines of plain text."""
    config = summary.config
    vision = config.vision
    image = "no" if vision is None else f"{vision.num_layers} layers of {vision.hidden_size}"
    facts = (
        ("path", str(summary.path)),
        ("layout", f"{summary.layout}, {_formats(summary)}"),
        ("files", f"{summary.num_files} with {summary.num_tensors:,} tensors"),
        ("fingerprint", summary.fingerprint),
        ("layers", f"{config.num_layers} of hidden size {config.hidden_size}"),
        (
            "experts",
            f"{config.num_experts} per layer, {config.num_experts_per_tok} active, "
            f"{config.num_shared_experts} shared, size {config.expert_size}",
        ),
        (
            "attention",
            f"{config.num_heads} heads, q {config.q_lora_rank}, kv {config.kv_lora_rank} "
            f"+ {config.qk_rope_head_dim}",
        ),
        ("vocabulary", f"{config.vocab_size:,}{', tied' if config.tie_word_embeddings else ''}"),
        ("vision", image),
        ("KV cache", f"{summary.kv_bytes_per_token:,} bytes per token in bf16"),
    )
    lines = [f"{label:<12}  {text}" for label, text in facts]
    total = max(summary.total_bytes, 1)
    lines += ["", f"{'part':<16}{'bytes':>20}{'size':>14}{'share':>9}"]
    for part, size in (*summary.bytes_by_part.items(), ("total", summary.total_bytes)):
        lines.append(f"{part:<16}{size:>20,}{size_text(size):>14}{size / total:>9.1%}")
    lines += ["", f"{'shards':<16}{'experts per shard':>20}{'as bf16':>14}"]
    for row in summary.shard_bytes:
        as_stored, as_bf16 = size_text(row.as_stored), size_text(row.as_bf16)
        lines.append(f"{row.num_shards:<16}{as_stored:>20}{as_bf16:>14}")
    return lines


def _formats(summary: CheckpointSummary) -> str:
    dense = summary.config.dense_held
    text = f"{summary.weight_format} experts, {dense.label} dense"
    return text if dense is not WeightFormat.BF16 else summary.weight_format


def _bytes_by_part(checkpoint: MappedCheckpoint) -> dict[Part, int]:
    layout, config = checkpoint.layout, checkpoint.config
    part_by_tensor: dict[str, Part] = {}

    def put(source: Source, part: Part) -> None:
        # The head of a tied checkpoint is its embedding, which comes first.
        part_by_tensor.setdefault(source.name, part)
        if source.scale_name in checkpoint.checked.all_names:
            part_by_tensor.setdefault(source.scale_name, part)

    for name, source in layout.dense.items():
        put(source, part_of(name))
    for layer in range(config.num_layers):
        for index in range(config.num_experts):
            expert = layout.expert(layer, index)
            for source in (*expert.gate_up, expert.down):
                put(source, Part.ROUTED_EXPERTS)
    result = dict.fromkeys(Part, 0)
    for tensor in checkpoint.tensors.file_by_tensor:
        part = part_by_tensor.get(tensor, Part.UNUSED)
        result[part] += checkpoint.tensors.entry(tensor).num_bytes
    return result


def _shard_bytes(config: ModelConfig, stored_bytes: int, num_shards: int) -> ShardBytes:
    num_experts = config.num_experts * config.num_layers
    on_fullest = math.ceil(config.num_experts / num_shards) * config.num_layers
    bf16_bytes = 3 * config.hidden_size * config.expert_size * BF16_BYTES
    return ShardBytes(num_shards, stored_bytes * on_fullest // num_experts, bf16_bytes * on_fullest)
