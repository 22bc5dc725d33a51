"""``ModelConfig`` to the content of config.json; ``read_hf_config`` undoes it."""

from __future__ import annotations

from typing import Any

from shards.checkpoint.config import ModelConfig, VisionConfig


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Content of config.json for a checkpoint in bf16.

    ``mistral3`` around ``mistral4`` when there is a vision tower, else ``mistral4`` alone.

    Raises:
        ValueError: The layout cannot say what the config says: fp8 weights, a YaRN magnitude, a
            temperature length of its own, image tokens other than the usual ones.
    """
    _check_expressible(config)
    text = _text(config)
    if config.vision is None:
        return {"architectures": ["Mistral4ForCausalLM"], "dtype": "bfloat16", **text}
    return {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": _vision(config.vision),
        "image_token_index": config.vision.image_token_id,
        "spatial_merge_size": config.vision.spatial_merge_size,
        "vision_feature_layer": -1,
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _check_expressible(config: ModelConfig) -> None:
    rules: list[tuple[bool, str]] = [
        (not config.is_fp8, "is_fp8 must be false"),
        (not config.yarn_apply_scale, "yarn_apply_scale must be false"),
        (
            config.llama4_original_max_positions == config.yarn_original_max_positions,
            "llama4_original_max_positions must equal yarn_original_max_positions",
        ),
    ]
    if config.vision is not None:
        image_ids = (config.vision.image_break_token_id, config.vision.image_end_token_id)
        rules += [
            (image_ids == (12, 13), "image_break_token_id and image_end_token_id must be 12, 13"),
            (config.vision.norm_eps == 1e-5, "vision norm_eps must be 1e-5"),
        ]
    for is_kept, problem in rules:
        if not is_kept:
            raise ValueError(problem)


def _text(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "mistral4",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": 3 * config.hidden_size,  # no layer uses it
        "moe_intermediate_size": config.expert_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "n_routed_experts": config.num_experts,
        "n_shared_experts": config.num_shared_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": config.routed_scaling_factor,
        "first_k_dense_replace": 0,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "qk_head_dim": config.qk_head_dim,
        "head_dim": config.qk_head_dim,
        "v_head_dim": config.v_head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": config.norm_eps,
        "rope_interleave": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": config.rope_theta,
            "factor": config.yarn_factor,
            "original_max_position_embeddings": config.yarn_original_max_positions,
            "max_position_embeddings": config.max_position_embeddings,
            "beta_fast": config.yarn_beta_fast,
            "beta_slow": config.yarn_beta_slow,
            "llama_4_scaling_beta": config.llama4_beta,
            "partial_rotary_factor": config.qk_rope_head_dim / config.qk_head_dim,
            # Says "no magnitude correction" to readers that would otherwise compute one.
            "attention_factor": 1.0,
        },
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def _vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "pixtral",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers,
        "num_attention_heads": vision.num_heads,
        "head_dim": vision.head_dim,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
    }
