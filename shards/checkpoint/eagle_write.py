"""Writes an Eagle head in the native layout. Source: model reference, sections 4c and 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from shards.checkpoint.check import FP8
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import eagle_layout, eagle_shapes
from shards.checkpoint.names import Source
from shards.checkpoint.native_write import quantise
from shards.checkpoint.safetensors_write import (
    TensorSpec,
    refuse_existing,
    write_json,
    write_safetensors,
)


def write_eagle(directory: Path, config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> None:
    """Write ``params.json`` and ``consolidated.safetensors``.

    Args:
        directory: Made if it is not there.
        config: Of the head, as ``head_config`` gives it; fp8 where ``is_fp8``, else bf16.
        weights: Float, by the names of ``eagle_shapes``.

    Raises:
        FileExistsError: A checkpoint is there already.
        ValueError: A weight is missing or misshapen: names it.
    """
    refuse_existing(directory)
    layout = eagle_layout(config)
    for name, shape in eagle_shapes(config).items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != shape:
            raise ValueError(f"{name}: shape {list(shape)} expected, got {found}")
    # fp8 last, so that nothing lies misaligned behind an odd number of bytes.
    order = sorted(layout.dense, key=lambda name: _is_fp8(layout.dense[name], config))
    sources = [layout.dense[name] for name in order]
    specs = {name: spec for source in sources for name, spec in _specs(source, config)}
    data = (
        tensor
        for name, source in zip(order, sources, strict=True)
        for tensor in _stored(source, weights[name].detach().float(), config)
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "consolidated.safetensors", specs, data)
    write_json(directory / "params.json", _params(config))


def _is_fp8(source: Source, config: ModelConfig) -> bool:
    return config.is_fp8 and source.scale_name is not None


def _specs(source: Source, config: ModelConfig) -> Iterator[tuple[str, TensorSpec]]:
    if not _is_fp8(source, config) or source.scale_name is None:
        yield source.name, TensorSpec("BF16", source.shape)
        return
    yield source.name, TensorSpec(FP8, source.shape)
    yield source.scale_name, TensorSpec("BF16", ())


def _stored(source: Source, weight: torch.Tensor, config: ModelConfig) -> tuple[torch.Tensor, ...]:
    return quantise(weight) if _is_fp8(source, config) else (weight.to(torch.bfloat16),)


def _params(config: ModelConfig) -> dict[str, Any]:
    params: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "hidden_dim": 2 * config.expert_size,
        "n_heads": config.num_heads,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
    }
    if config.is_fp8:
        params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    return params
