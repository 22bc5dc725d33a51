"""config.json of the Hugging Face layout to ``ModelConfig``.

Source: model reference, section 1. ``mscale`` and ``mscale_all_dim`` mean nothing for this model
type (section 0): the softmax scale is never multiplied by the YaRN magnitude.
"""

from __future__ import annotations

from pathlib import Path

from shards.checkpoint.config import ModelConfig, VisionConfig
from shards.checkpoint.config_check import check_sizes
from shards.checkpoint.fields import Fields, read_json


def read_hf_config(path: Path) -> ModelConfig:
    """Sizes out of ``config.json``: ``mistral3`` around a ``mistral4``, or ``mistral4`` alone.

    Raises:
        CheckpointError: A key is missing or of the wrong type, or asks for something that is not
            supported; names the key.
    """
    outer = read_json(path)
    has_outer = outer.values.get("model_type") == "mistral3"
    text = outer.section("text_config") if has_outer else outer
    text.require("model_type", "mistral4", may_miss=False)
    _refuse_unsupported(text)
    is_fp8 = any([_is_fp8(fields) for fields in (outer, text)])
    tied = outer if outer.has("tie_word_embeddings") else text
    vision = _vision(outer) if has_outer and outer.has("vision_config") else None
    config = _text_config(
        text, is_tied=tied.flag("tie_word_embeddings", False), is_fp8=is_fp8, vision=vision
    )
    return check_sizes(str(path), config)


def _refuse_unsupported(text: Fields) -> None:
    text.require("n_group", 1)
    text.require("topk_group", 1)
    text.require("first_k_dense_replace", 0)
    text.require("moe_layer_freq", 1)
    text.require("norm_topk_prob", True)
    text.require("scoring_func", "softmax")
    text.require("rope_interleave", True)
    text.require("attention_bias", False)
    text.require("mlp_bias", False)
    text.require("hidden_act", "silu")
    text.require_missing("sliding_window")


def _is_fp8(fields: Fields) -> bool:
    if not fields.has("quantization_config"):
        return False
    quantisation = fields.section("quantization_config")
    quantisation.require("quant_method", "fp8", may_miss=False)
    quantisation.require_missing("weight_block_size")
    return True


def _text_config(
    text: Fields, *, is_tied: bool, is_fp8: bool, vision: VisionConfig | None
) -> ModelConfig:
    rope = text.section("rope_parameters")
    rope.require("rope_type", "yarn", may_miss=False)
    num_heads = text.count("num_attention_heads")
    text.require("num_key_value_heads", num_heads)
    nope, rotary = text.count("qk_nope_head_dim"), text.count("qk_rope_head_dim")
    text.require("qk_head_dim", nope + rotary)
    original = rope.count("original_max_position_embeddings")
    experts = "n_routed_experts" if text.has("n_routed_experts") else "num_local_experts"
    return ModelConfig(
        vocab_size=text.count("vocab_size"),
        hidden_size=text.count("hidden_size"),
        num_layers=text.count("num_hidden_layers"),
        num_heads=num_heads,
        q_lora_rank=text.count("q_lora_rank"),
        kv_lora_rank=text.count("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rotary,
        v_head_dim=text.count("v_head_dim"),
        num_experts=text.count(experts),
        num_experts_per_tok=text.count("num_experts_per_tok"),
        num_shared_experts=text.count("n_shared_experts"),
        expert_size=text.count("moe_intermediate_size"),
        routed_scaling_factor=text.number("routed_scaling_factor", 1.0),
        norm_eps=text.number("rms_norm_eps"),
        rope_theta=(rope if rope.has("rope_theta") else text).number("rope_theta"),
        yarn_factor=rope.number("factor"),
        yarn_original_max_positions=original,
        yarn_beta_fast=rope.number("beta_fast", 32.0),
        yarn_beta_slow=rope.number("beta_slow", 1.0),
        yarn_apply_scale=False,
        llama4_beta=rope.number("llama_4_scaling_beta", can_be_zero=True),
        llama4_original_max_positions=original,
        max_position_embeddings=text.count("max_position_embeddings"),
        tie_word_embeddings=is_tied,
        is_fp8=is_fp8,
        bos_token_id=text.count("bos_token_id", 1, at_least=0),
        eos_token_id=text.count("eos_token_id", 2, at_least=0),
        pad_token_id=text.count("pad_token_id", 11, at_least=0),
        vision=vision,
    )


def _vision(outer: Fields) -> VisionConfig:
    outer.require("multimodal_projector_bias", False)
    outer.require("projector_hidden_act", "gelu")
    outer.require("vision_feature_layer", -1)
    tower = outer.section("vision_config")
    tower.require("model_type", "pixtral")
    tower.require("hidden_act", "silu")
    hidden_size, num_heads = tower.count("hidden_size"), tower.count("num_attention_heads")
    tower.require("head_dim", hidden_size // num_heads)
    rope = tower.section("rope_parameters") if tower.has("rope_parameters") else tower
    image_id = "image_token_index" if outer.has("image_token_index") else "image_token_id"
    return VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=tower.count("intermediate_size"),
        num_layers=tower.count("num_hidden_layers"),
        num_heads=num_heads,
        num_channels=tower.count("num_channels", 3),
        patch_size=tower.count("patch_size"),
        image_size=tower.count("image_size"),
        spatial_merge_size=outer.count("spatial_merge_size"),
        rope_theta=rope.number("rope_theta", 10000.0),
        image_token_id=outer.count(image_id, 10, at_least=0),
    )
