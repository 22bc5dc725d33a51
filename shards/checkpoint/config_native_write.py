"""``ModelConfig`` to the content of params.json; ``read_native_config`` undoes it."""

from __future__ import annotations

from typing import Any

from shards.checkpoint.config import ModelConfig, VisionConfig
from shards.checkpoint.config_native import OUR_FORMAT
from shards.kernels.formats import GROUP, WeightFormat

# The layout has no keys for these; readers take them as given.
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11}
VISION_NORM_EPS = 1e-5


def native_params(config: ModelConfig) -> dict[str, Any]:
    """Content of params.json for a checkpoint in bf16, fp8 or our own formats.

    Raises:
        ValueError: The layout cannot say what the config says: other token ids than the usual
            ones, another epsilon in the vision tower.
    """
    _check_expressible(config)
    params: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "head_dim": config.qk_head_dim,
        "hidden_dim": 3 * config.hidden_size,  # no layer uses it
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_heads,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        "tied_embeddings": config.tie_word_embeddings,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "yarn": {
            "factor": config.yarn_factor,
            "original_max_position_embeddings": config.yarn_original_max_positions,
            "beta": config.yarn_beta_fast,
            "alpha": config.yarn_beta_slow,
            "apply_scale": config.yarn_apply_scale,
        },
        "llama_4_scaling": {
            "beta": config.llama4_beta,
            "original_max_position_embeddings": config.llama4_original_max_positions,
        },
        "moe": _moe(config),
    }
    if config.vision is not None:
        params["vision_encoder"] = _vision(config.vision)
    held = config.experts_held, config.dense_held
    if any(one is not WeightFormat.BF16 for one in held):
        experts, dense = (one.label for one in held)
        ours = {"qformat_weight": OUR_FORMAT, "experts": experts, "dense": dense}
        params["quantization"] = ours | {"group_size": GROUP}
    elif config.is_fp8:
        params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    return params


def _check_expressible(config: ModelConfig) -> None:
    for name, only in TOKEN_IDS.items():
        if getattr(config, name) != only:
            raise ValueError(f"{name} must be {only}")
    if config.vision is not None and config.vision.norm_eps != VISION_NORM_EPS:
        raise ValueError(f"vision norm_eps must be {VISION_NORM_EPS:g}")


def _moe(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "num_shared_experts": config.num_shared_experts,
        "expert_hidden_dim": config.expert_size,
        "first_k_dense_replace": 0,
        "route_every_n": 1,
        "routed_scale": config.routed_scaling_factor,
        "num_expert_groups": 1,
        "num_expert_groups_per_tok": 1,
    }


def _vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "max_image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "rope_theta": vision.rope_theta,
        "spatial_merge_size": vision.spatial_merge_size,
        "image_token_id": vision.image_token_id,
        "image_break_token_id": vision.image_break_token_id,
        "image_end_token_id": vision.image_end_token_id,
        "adapter_bias": False,
        "add_pre_mm_projector_layer_norm": True,
        "mm_projector_id": "patch_merge",
    }
