"""params.json of the native layout to ``ModelConfig``.

Source: model reference, sections 0 (``yarn.apply_scale``), 1 and 4b.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from shards.checkpoint.config import ModelConfig, VisionConfig
from shards.checkpoint.config_check import check_sizes
from shards.checkpoint.fields import Fields, read_json
from shards.kernels.formats import FORMATS, GROUP

OUR_FORMAT: Final = "galerne"  # what ``galerne quantize`` writes


def read_native_config(path: Path) -> ModelConfig:
    """Sizes out of ``params.json``.

    Raises:
        CheckpointError: A key is missing or of the wrong type, or asks for something that is not
            supported; names the key.
    """
    params = read_json(path)
    moe = params.section("moe")
    _refuse_unsupported(params, moe)
    stored = _stored_format(params.section("quantization")) if params.has("quantization") else {}
    vision = _vision(params.section("vision_encoder")) if params.has("vision_encoder") else None
    return check_sizes(str(path), replace(_text_config(params, moe, vision), **stored))


def _stored_format(quantisation: Fields) -> dict[str, Any]:
    """Fields of ``ModelConfig`` that say how weights are stored."""
    # llm-compressor's formats (NVFP4 among them) come with this key, fp8 without it.
    quantisation.require_missing("quant_method")
    if quantisation.values.get("qformat_weight") == OUR_FORMAT:
        quantisation.require("group_size", GROUP, may_miss=False)
        return {
            f"{part}_held": FORMATS[quantisation.choice(part, tuple(FORMATS))]
            for part in ("experts", "dense")
        }
    quantisation.require("qformat_weight", "fp8_e4m3", may_miss=False)
    return {"is_fp8": True}


def _refuse_unsupported(params: Fields, moe: Fields) -> None:
    params.require("activation", "silu")
    params.require_missing("sliding_window")
    moe.require("first_k_dense_replace", 0)
    moe.require("route_every_n", 1)
    moe.require("num_expert_groups", 1)
    moe.require("num_expert_groups_per_tok", 1)
    moe.require("use_load_balancing_bias", False)
    moe.require("renorm_strategy", "WEIGHTS")


def _text_config(params: Fields, moe: Fields, vision: VisionConfig | None) -> ModelConfig:
    yarn, llama4 = params.section("yarn"), params.section("llama_4_scaling")
    num_heads = params.count("n_heads")
    params.require("n_kv_heads", num_heads)
    nope, rotary = params.count("qk_nope_head_dim"), params.count("qk_rope_head_dim")
    params.require("head_dim", nope + rotary)
    return ModelConfig(
        vocab_size=params.count("vocab_size"),
        hidden_size=params.count("dim"),
        num_layers=params.count("n_layers"),
        num_heads=num_heads,
        q_lora_rank=params.count("q_lora_rank"),
        kv_lora_rank=params.count("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rotary,
        v_head_dim=params.count("v_head_dim"),
        num_experts=moe.count("num_experts"),
        num_experts_per_tok=moe.count("num_experts_per_tok"),
        num_shared_experts=moe.count("num_shared_experts"),
        expert_size=moe.count("expert_hidden_dim"),
        routed_scaling_factor=moe.number("routed_scale", 1.0),
        norm_eps=params.number("norm_eps"),
        rope_theta=params.number("rope_theta"),
        yarn_factor=yarn.number("factor"),
        yarn_original_max_positions=yarn.count("original_max_position_embeddings"),
        yarn_beta_fast=yarn.number("beta"),
        yarn_beta_slow=yarn.number("alpha"),
        # Readers disagree on what a missing key means, and it changes every logit: no default.
        yarn_apply_scale=yarn.flag("apply_scale"),
        llama4_beta=llama4.number("beta", can_be_zero=True),
        llama4_original_max_positions=llama4.count("original_max_position_embeddings"),
        max_position_embeddings=params.count("max_position_embeddings"),
        tie_word_embeddings=params.flag("tied_embeddings", False),
        is_fp8=False,
        vision=vision,
    )


def _vision(tower: Fields) -> VisionConfig:
    tower.require("adapter_bias", False)
    tower.require("add_pre_mm_projector_layer_norm", True)
    tower.require("mm_projector_id", "patch_merge")
    side = "max_image_size" if tower.has("max_image_size") else "image_size"
    return VisionConfig(
        hidden_size=tower.count("hidden_size"),
        intermediate_size=tower.count("intermediate_size"),
        num_layers=tower.count("num_hidden_layers"),
        num_heads=tower.count("num_attention_heads"),
        num_channels=tower.count("num_channels", 3),
        patch_size=tower.count("patch_size"),
        image_size=tower.count(side),
        spatial_merge_size=tower.count("spatial_merge_size"),
        rope_theta=tower.number("rope_theta", 10000.0),
        image_token_id=tower.count("image_token_id", 10, at_least=0),
        image_break_token_id=tower.count("image_break_token_id", 12, at_least=0),
        image_end_token_id=tower.count("image_end_token_id", 13, at_least=0),
    )
