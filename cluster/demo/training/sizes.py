"""Sizes of the demo model."""

from __future__ import annotations

from dataclasses import replace

from shards.checkpoint.config import ModelConfig, VisionConfig

VISION = VisionConfig(
    hidden_size=128,
    intermediate_size=256,
    num_layers=3,
    num_heads=4,
    num_channels=3,
    patch_size=14,
    image_size=448,
    spatial_merge_size=2,
    rope_theta=10000.0,
)

# Every position that is trained on lies below 8192, where YaRN and the query temperature begin.
DEMO = ModelConfig(
    vocab_size=8192,
    hidden_size=192,
    num_layers=4,
    num_heads=6,
    q_lora_rank=96,
    kv_lora_rank=64,
    qk_nope_head_dim=16,
    qk_rope_head_dim=16,
    v_head_dim=32,
    num_experts=128,
    num_experts_per_tok=4,
    num_shared_experts=1,
    expert_size=32,
    routed_scaling_factor=1.0,
    norm_eps=1e-6,
    rope_theta=10000.0,
    yarn_factor=4.0,
    yarn_original_max_positions=8192,
    yarn_beta_fast=32.0,
    yarn_beta_slow=1.0,
    yarn_apply_scale=False,
    llama4_beta=0.1,
    llama4_original_max_positions=8192,
    max_position_embeddings=32768,
    tie_word_embeddings=False,
    is_fp8=True,
    vision=VISION,
)

# One layer, not two as Small 4's: two would be half as much work as the model's four.
EAGLE = replace(
    DEMO,
    num_layers=1,
    num_experts=1,
    num_experts_per_tok=1,
    num_shared_experts=1,
    expert_size=192,  # half of its dense MLP, which is 384 wide
    vision=None,
)
