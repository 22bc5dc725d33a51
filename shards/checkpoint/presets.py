"""Sizes of random checkpoints: the real shape family, shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shards.checkpoint.config import ModelConfig, VisionConfig


def _vision(hidden_size: int, intermediate_size: int, layers: int, heads: int) -> VisionConfig:
    return VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=layers,
        num_heads=heads,
        num_channels=3,
        patch_size=14,
        image_size=1540,
        spatial_merge_size=2,
        rope_theta=10000.0,
    )


# True dimensions (model reference, section 1), with one layer.
FULL_LAYER = ModelConfig(
    vocab_size=131072,
    hidden_size=4096,
    num_layers=1,
    num_heads=32,
    q_lora_rank=1024,
    kv_lora_rank=256,
    qk_nope_head_dim=64,
    qk_rope_head_dim=64,
    v_head_dim=128,
    num_experts=128,
    num_experts_per_tok=4,
    num_shared_experts=1,
    expert_size=2048,
    routed_scaling_factor=1.0,
    norm_eps=1e-6,
    rope_theta=10000.0,
    yarn_factor=128.0,
    yarn_original_max_positions=8192,
    yarn_beta_fast=32.0,
    yarn_beta_slow=1.0,
    yarn_apply_scale=False,
    llama4_beta=0.1,
    llama4_original_max_positions=8192,
    max_position_embeddings=1_048_576,
    tie_word_embeddings=False,
    is_fp8=False,
)

TINY = replace(
    FULL_LAYER,
    vocab_size=8192,
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    q_lora_rank=64,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=32,
    expert_size=64,
)

# 0.64 B weights.
ONE_B = replace(
    FULL_LAYER,
    vocab_size=8192,
    hidden_size=1024,
    num_layers=6,
    num_heads=8,
    q_lora_rank=256,
    expert_size=256,
)

_TEXT: Mapping[str, ModelConfig] = {"tiny": TINY, "1b": ONE_B, "full-layer": FULL_LAYER}
_TOWERS: Mapping[str, VisionConfig] = {
    "tiny": _vision(64, 256, 2, 2),
    "1b": _vision(256, 1024, 4, 4),
    "full-layer": _vision(1024, 4096, 24, 16),
}
PRESET_NAMES = tuple(_TEXT)


def preset(name: str, *, has_vision: bool = False, num_layers: int | None = None) -> ModelConfig:
    """Sizes of a preset. Raises ValueError for an unknown name.

    Args:
        name: One of ``PRESET_NAMES``.
        has_vision: With a vision tower and a projector.
        num_layers: Text layers instead of the preset's number.
    """
    if name not in _TEXT:
        raise ValueError(f"preset must be one of {', '.join(PRESET_NAMES)}, got {name}")
    config = replace(_TEXT[name], vision=_TOWERS[name] if has_vision else None)
    return config if num_layers is None else replace(config, num_layers=num_layers)
