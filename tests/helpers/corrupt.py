"""Ways to damage a checkpoint, each with the error that opening it must give.

``CORRUPTIONS`` is one table for the tests and for the demo that prints it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.checkpoint_files import (
    bf16_scales,
    edit_header,
    edit_json,
    read_tensors,
    replace_tensor,
    split_in_two,
    truncate,
    write_raw,
    zeros,
)

HF_FILE, NATIVE_FILE = "model.safetensors", "consolidated.safetensors"
INDEX = "model.safetensors.index.json"
HF_LAYER = "language_model.model.layers.1."
HF_GATE = f"{HF_LAYER}mlp.gate.weight"
HF_EXPERTS = f"{HF_LAYER}mlp.experts.down_proj"
LAST_TENSOR = "vision_tower.transformer.layers.1.ffn_norm.weight"


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One way to damage a copy of a fixture, and what the refusal must say."""

    name: str
    fixture: str = "tiny-hf-bf16"
    damage: Callable[[Path], None]
    file: str  # name of the file the error points at
    tensor: str | None = None
    expected: str  # part of what the error expected ...
    found: str  # ... and of what it found


def _shift_gate(header: dict[str, Any]) -> None:
    header[HF_GATE]["data_offsets"][0] += 2
    header[HF_GATE]["data_offsets"][1] += 2


def _dtype_of_gate(dtype: str) -> Callable[[dict[str, Any]], None]:
    def edit(header: dict[str, Any]) -> None:
        header[HF_GATE]["dtype"] = dtype

    return edit


def _delete_second_shard(path: Path) -> None:
    split_in_two(path)[1].unlink()


def _index_names_absent_tensor(path: Path) -> None:
    first, _ = split_in_two(path)
    edit_json(path / INDEX, "weight_map", "no.such.tensor", value=first.name)


def _index_leads_outside(path: Path) -> None:
    split_in_two(path)
    edit_json(path / INDEX, "weight_map", HF_GATE, value="../other.safetensors")


def _gate_in_both_shards(path: Path) -> None:
    first, second = split_in_two(path)
    gate = {**read_tensors(first), **read_tensors(second)}[HF_GATE]
    for shard in (first, second):
        replace_tensor(shard, HF_GATE, gate)


CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption(
        name="directory is missing",
        damage=shutil.rmtree,
        file="tiny-hf-bf16",
        expected="a directory",
        found="no such directory",
    ),
    Corruption(
        name="no weights beside the config",
        damage=lambda path: (path / HF_FILE).unlink(),
        file="tiny-hf-bf16",
        expected="config.json with model*.safetensors",
        found="config.json",
    ),
    Corruption(
        name="config is no JSON",
        damage=lambda path: (path / "config.json").write_text("{,"),
        file="config.json",
        expected="valid JSON",
        found="line 1",
    ),
    Corruption(
        name="config lacks a key",
        damage=lambda path: edit_json(
            path / "config.json", "text_config", "kv_lora_rank", value=None
        ),
        file="config.json",
        expected="text_config.kv_lora_rank",
        found="nothing",
    ),
    Corruption(
        name="config has text for a number",
        fixture="tiny-native-bf16",
        damage=lambda path: edit_json(path / "params.json", "moe", "num_experts", value="many"),
        file="params.json",
        expected="moe.num_experts as a whole number",
        found='"many"',
    ),
    Corruption(
        name="config asks for grouped routing",
        damage=lambda path: edit_json(path / "config.json", "text_config", "n_group", value=8),
        file="config.json",
        expected="text_config.n_group = 1",
        found="8",
    ),
    Corruption(
        name="config asks for an NVFP4 checkpoint",
        fixture="tiny-hf-fp8",
        damage=lambda path: edit_json(
            path / "config.json", "quantization_config", "quant_method", value="compressed-tensors"
        ),
        file="config.json",
        expected='quantization_config.quant_method = "fp8"',
        found='"compressed-tensors"',
    ),
    Corruption(
        name="config asks for block-wise fp8",
        fixture="tiny-hf-fp8",
        damage=lambda path: edit_json(
            path / "config.json", "quantization_config", "weight_block_size", value=[128, 128]
        ),
        file="config.json",
        expected="quantization_config.weight_block_size = null",
        found="[128, 128]",
    ),
    Corruption(
        name="config says more experts than the tensors have",
        damage=lambda path: edit_json(
            path / "config.json", "text_config", "n_routed_experts", value=32
        ),
        file=HF_FILE,
        tensor="language_model.model.layers.0.mlp.gate.weight",
        expected="shape [32, 64]",
        found="shape [16, 64]",
    ),
    Corruption(
        name="config says more layers than there are",
        fixture="tiny-native-fp8",
        damage=lambda path: edit_json(path / "params.json", "n_layers", value=4),
        file=NATIVE_FILE,
        tensor="layers.3.attention_norm.weight",
        expected="BF16 or F32 [64]",
        found="no such tensor",
    ),
    Corruption(
        name="config says bf16 and the weights are fp8",
        fixture="tiny-hf-fp8",
        damage=lambda path: edit_json(path / "config.json", "quantization_config", value=None),
        file=HF_FILE,
        tensor="language_model.model.layers.0.self_attn.q_a_proj.weight",
        expected="dtype BF16 or F32",
        found="F8_E4M3",
    ),
    Corruption(
        name="config says fp8 and the experts are bf16",
        fixture="tiny-native-bf16",
        damage=lambda path: edit_json(
            path / "params.json", "quantization", value={"qformat_weight": "fp8_e4m3"}
        ),
        file=NATIVE_FILE,
        tensor="layers.0.experts.0.w1.weight",
        expected="dtype F8_E4M3",
        found="BF16",
    ),
    Corruption(
        name="file is empty",
        damage=lambda path: (path / HF_FILE).write_bytes(b""),
        file=HF_FILE,
        expected="at least 8 bytes",
        found="0 bytes",
    ),
    Corruption(
        name="file ends within its header",
        damage=lambda path: truncate(path / HF_FILE, 820_000),
        file=HF_FILE,
        expected="at least 8768 bytes",
        found="6656 bytes",
    ),
    Corruption(
        name="file ends within its last tensor",
        damage=lambda path: truncate(path / HF_FILE, 1),
        file=HF_FILE,
        tensor=LAST_TENSOR,
        expected="826656 bytes",
        found="826655 bytes",
    ),
    Corruption(
        name="file ends in the middle",
        damage=lambda path: truncate(path / HF_FILE, 300_000),
        file=HF_FILE,
        tensor="language_model.model.layers.1.self_attn.kv_b_proj.weight",
        expected="826656 bytes",
        found="526656 bytes",
    ),
    Corruption(
        name="file has bytes behind its last tensor",
        damage=lambda path: (path / HF_FILE).write_bytes((path / HF_FILE).read_bytes() + b"x"),
        file=HF_FILE,
        expected="826656 bytes",
        found="826657 bytes",
    ),
    Corruption(
        name="header's length is absurd",
        damage=lambda path: (path / HF_FILE).write_bytes(b"\xff" * 64),
        file=HF_FILE,
        expected="a header of at most 100000000 bytes",
        found="18446744073709551615 bytes",
    ),
    Corruption(
        name="header is no JSON",
        damage=lambda path: write_raw(path / HF_FILE, b'{"a": '),
        file=HF_FILE,
        expected="a header in JSON",
        found="line 1",
    ),
    Corruption(
        name="header gives two tensors the same bytes",
        damage=lambda path: edit_header(path / HF_FILE, _shift_gate),
        file=HF_FILE,
        tensor=HF_GATE,
        expected="data from byte",
        found="byte",
    ),
    Corruption(
        name="header's dtype and bytes disagree",
        damage=lambda path: edit_header(path / HF_FILE, _dtype_of_gate("F32")),
        file=HF_FILE,
        tensor=HF_GATE,
        expected="4096 bytes for F32 [16, 64]",
        found="2048 bytes",
    ),
    Corruption(
        name="tensor is missing",
        damage=lambda path: replace_tensor(path / HF_FILE, HF_GATE, None),
        file=HF_FILE,
        tensor=HF_GATE,
        expected="BF16 or F32 [16, 64]",
        found="no such tensor",
    ),
    Corruption(
        name="expert of a native checkpoint is missing",
        fixture="tiny-native-bf16",
        damage=lambda path: replace_tensor(
            path / NATIVE_FILE, "layers.2.experts.15.w2.weight", None
        ),
        file=NATIVE_FILE,
        tensor="layers.2.experts.15.w2.weight",
        expected="BF16 or F32 [64, 32]",
        found="no such tensor",
    ),
    Corruption(
        name="tensor has the wrong shape",
        damage=lambda path: replace_tensor(path / HF_FILE, HF_EXPERTS, zeros("BF16", 16, 32, 64)),
        file=HF_FILE,
        tensor=HF_EXPERTS,
        expected="shape [16, 64, 32]",
        found="shape [16, 32, 64]",
    ),
    Corruption(
        name="tensor has the wrong dtype",
        damage=lambda path: edit_header(path / HF_FILE, _dtype_of_gate("F16")),
        file=HF_FILE,
        tensor=HF_GATE,
        expected="dtype BF16 or F32",
        found="F16",
    ),
    Corruption(
        name="fp8 weight has no scale",
        fixture="tiny-native-fp8",
        damage=lambda path: replace_tensor(
            path / NATIVE_FILE, "layers.1.attention.wo.qscale_weight", None
        ),
        file=NATIVE_FILE,
        tensor="layers.1.attention.wo.qscale_weight",
        expected="the scale of fp8 weight layers.1.attention.wo.weight",
        found="no such tensor",
    ),
    Corruption(
        name="fp8 experts have one scale for all",
        fixture="tiny-hf-fp8",
        damage=lambda path: replace_tensor(
            path / HF_FILE, f"{HF_EXPERTS}_scale_inv", bf16_scales(0x3F80)
        ),
        file=HF_FILE,
        tensor=f"{HF_EXPERTS}_scale_inv",
        expected="shape [16]",
        found="shape []",
    ),
    Corruption(
        name="scale is not a number",
        fixture="tiny-hf-fp8",
        damage=lambda path: replace_tensor(
            path / HF_FILE, f"{HF_EXPERTS}_scale_inv", bf16_scales(0x7FC0, 16, 1, 1)
        ),
        file=HF_FILE,
        tensor=f"{HF_EXPERTS}_scale_inv",
        expected="a finite scale above 0",
        found="nan at index 0",
    ),
    Corruption(
        name="scale is zero",
        fixture="tiny-native-fp8",
        damage=lambda path: replace_tensor(
            path / NATIVE_FILE, "layers.0.experts.3.w1.qscale_weight", bf16_scales(0)
        ),
        file=NATIVE_FILE,
        tensor="layers.0.experts.3.w1.qscale_weight",
        expected="a finite scale above 0",
        found="0.0 at index 0",
    ),
    Corruption(
        name="file of the index is missing",
        damage=_delete_second_shard,
        file="model-00002-of-00002.safetensors",
        tensor="language_model.model.layers.2.mlp.shared_experts.down_proj.weight",
        expected=f"a file, as {INDEX} says",
        found="no file",
    ),
    Corruption(
        name="index names a tensor that its file lacks",
        damage=_index_names_absent_tensor,
        file="model-00001-of-00002.safetensors",
        tensor="no.such.tensor",
        expected=f"a tensor, as {INDEX} says",
        found="no such tensor",
    ),
    Corruption(
        name="index leads outside of its directory",
        damage=_index_leads_outside,
        file=INDEX,
        expected=f"weight_map.{HF_GATE} as the name of a file",
        found="../other.safetensors",
    ),
    Corruption(
        name="tensor is in two files",
        damage=_gate_in_both_shards,
        file="model-00002-of-00002.safetensors",
        tensor=HF_GATE,
        expected="a tensor in one file only",
        found="also in",
    ),
)
