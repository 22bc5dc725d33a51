"""Names in the native layout. Source: model reference, section 4b."""

from __future__ import annotations

from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import (
    ExpertSources,
    Layout,
    NameTable,
    Shape,
    Source,
    can_be_fp8,
    can_be_quantised,
    dense_shapes,
)
from shards.kernels.formats import WeightFormat

_MLP = {"gate": "w1.weight", "down": "w2.weight", "up": "w3.weight"}

NATIVE_NAMES = NameTable(
    top={
        "embed": "tok_embeddings.weight",
        "norm": "norm.weight",
        "head": "output.weight",
        "vision.patch_conv": "vision_encoder.patch_conv.weight",
        "vision.ln_pre": "vision_encoder.ln_pre.weight",
        "projector.norm": "pre_mm_projector_norm.weight",
        "projector.merge": "patch_merger.merging_layer.weight",
        "projector.linear_1": "vision_language_adapter.w_in.weight",
        "projector.linear_2": "vision_language_adapter.w_out.weight",
    },
    layers="layers.",
    layer={
        "input_norm": "attention_norm.weight",
        "post_norm": "ffn_norm.weight",
        "q_a": "attention.wq_a.weight",
        "q_a_norm": "attention.q_a_norm.weight",
        "q_b": "attention.wq_b.weight",
        "kv_a": "attention.wkv_a_with_mqa.weight",
        "kv_a_norm": "attention.kv_a_norm.weight",
        "kv_b": "attention.wkv_b.weight",
        "o": "attention.wo.weight",
        "gate": "gate.weight",
        **{f"shared_{name}": f"shared_experts.{stored}" for name, stored in _MLP.items()},
    },
    vision_layers="vision_encoder.transformer.layers.",
    vision_layer={
        "attention_norm": "attention_norm.weight",
        "ffn_norm": "ffn_norm.weight",
        **{name: f"attention.w{name}.weight" for name in "qkvo"},
        **{name: f"feed_forward.{stored}" for name, stored in _MLP.items()},
    },
)


def native_layout(config: ModelConfig) -> Layout:
    """Where a native checkpoint stores what.

    The vision tower's q and k are stored for rotation of neighbouring pairs (section 3).
    """
    dense: dict[str, Source] = {}
    for name, shape in dense_shapes(config).items():
        stored = NATIVE_NAMES.stored_name(name)
        is_rotary = name.startswith("vision.layers.") and name.endswith((".q", ".k"))
        held = config.dense_held if can_be_quantised(name) else WeightFormat.BF16
        has_scale = can_be_fp8(name) or held is not WeightFormat.BF16
        dense[name] = Source(
            stored,
            shape,
            _scale_name(stored) if has_scale else None,
            has_rotary_pairs=is_rotary,
            held=held,
        )
    dense.setdefault("head", dense["embed"])

    hidden, size = config.hidden_size, config.expert_size

    def expert(layer: int, index: int) -> ExpertSources:
        def source(short: str, shape: Shape) -> Source:
            name = f"layers.{layer}.experts.{index}.{_MLP[short]}"
            return Source(name, shape, _scale_name(name), held=config.experts_held)

        inward = (size, hidden)
        return ExpertSources(
            (source("gate", inward), source("up", inward)), source("down", (hidden, size))
        )

    return Layout(kind="native", dense=dense, expert=expert)


def _scale_name(stored: str) -> str:
    return f"{stored.removesuffix('weight')}qscale_weight"
