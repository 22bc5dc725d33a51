"""Names in the Hugging Face layout. Source: model reference, section 4a."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import (
    ExpertSources,
    Layout,
    NameTable,
    Source,
    can_be_fp8,
    dense_shapes,
)

_LAYER = {
    "input_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    "q_a": "self_attn.q_a_proj.weight",
    "q_a_norm": "self_attn.q_a_layernorm.weight",
    "q_b": "self_attn.q_b_proj.weight",
    "kv_a": "self_attn.kv_a_proj_with_mqa.weight",
    "kv_a_norm": "self_attn.kv_a_layernorm.weight",
    "kv_b": "self_attn.kv_b_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate.weight",
    "shared_gate": "mlp.shared_experts.gate_proj.weight",
    "shared_up": "mlp.shared_experts.up_proj.weight",
    "shared_down": "mlp.shared_experts.down_proj.weight",
}
_VISION_LAYER = {
    "attention_norm": "attention_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    **{name: f"attention.{name}_proj.weight" for name in "qkvo"},
    **{name: f"feed_forward.{name}_proj.weight" for name in ("gate", "up", "down")},
}


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Where the parts of the model begin."""

    text: str
    head: str
    vision: str
    projector: str


ON_DISK = Prefixes(
    "language_model.model.", "language_model.lm_head", "vision_tower.", "multi_modal_projector."
)
IN_MEMORY = Prefixes(
    "model.language_model.", "lm_head", "model.vision_tower.", "model.multi_modal_projector."
)
TEXT_ONLY = Prefixes("model.", "lm_head", "vision_tower.", "multi_modal_projector.")


def find_prefixes(config: ModelConfig, tensor_names: Collection[str]) -> Prefixes:
    """The prefixes that the checkpoint uses, by the layers that are there."""
    for prefixes in (ON_DISK, IN_MEMORY, TEXT_ONLY):
        layers = f"{prefixes.text}layers."
        if any(name.startswith(layers) for name in tensor_names):
            return prefixes
    return TEXT_ONLY if config.vision is None else ON_DISK


def hf_names(prefixes: Prefixes) -> NameTable:
    """Names of the dense weights."""
    vision, projector = prefixes.vision, prefixes.projector
    return NameTable(
        top={
            "embed": f"{prefixes.text}embed_tokens.weight",
            "norm": f"{prefixes.text}norm.weight",
            "head": f"{prefixes.head}.weight",
            "vision.patch_conv": f"{vision}patch_conv.weight",
            "vision.ln_pre": f"{vision}ln_pre.weight",
            "projector.norm": f"{projector}norm.weight",
            "projector.merge": f"{projector}patch_merger.merging_layer.weight",
            "projector.linear_1": f"{projector}linear_1.weight",
            "projector.linear_2": f"{projector}linear_2.weight",
        },
        layers=f"{prefixes.text}layers.",
        layer=_LAYER,
        vision_layers=f"{vision}transformer.layers.",
        vision_layer=_VISION_LAYER,
    )


def hf_layout(config: ModelConfig, prefixes: Prefixes) -> Layout:
    """Where a checkpoint with these prefixes stores what.

    A weight's scale is called after it: ``X`` and ``X_scale_inv``. Despite the name it is a factor.
    """
    names = hf_names(prefixes)
    dense: dict[str, Source] = {}
    for name, shape in dense_shapes(config).items():
        stored = names.stored_name(name)
        dense[name] = Source(stored, shape, f"{stored}_scale_inv" if can_be_fp8(name) else None)
    dense.setdefault("head", dense["embed"])

    num_experts, hidden, size = config.num_experts, config.hidden_size, config.expert_size

    def expert(layer: int, index: int) -> ExpertSources:
        stem = f"{prefixes.text}layers.{layer}.mlp.experts."
        gate_up, down = f"{stem}gate_up_proj", f"{stem}down_proj"
        return ExpertSources(
            (Source(gate_up, (num_experts, 2 * size, hidden), f"{gate_up}_scale_inv", index),),
            Source(down, (num_experts, hidden, size), f"{down}_scale_inv", index),
        )

    return Layout(kind="hf", dense=dense, expert=expert)
