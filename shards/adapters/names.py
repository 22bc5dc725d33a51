"""Which weight a tensor of an adapter changes."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from shards.checkpoint.config import ModelConfig
from shards.checkpoint.layout_hf import TEXT_ONLY, hf_names
from shards.checkpoint.names import FP8_LINEARS, Shape, layer_shapes

_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_IN_LAYER = re.compile(r"base_model\.model\.(?:(?:model|language_model)\.)*layers\.(\d{1,6})\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.(\d{1,6})\.(gate|up|down)_proj")
_STACK = re.compile(r"mlp\.experts(?:\.base_layer)?")  # PEFT nests two parameters of a module
# Every linear of a layer but the gate.
_DENSE_BY_MODULE = {
    stored.removesuffix(".weight"): name
    for name, stored in hf_names(TEXT_ONLY).layer.items()
    if name in FP8_LINEARS
}
CAN_BE_ADAPTED = f"one of {', '.join(_DENSE_BY_MODULE)}, mlp.experts.N.{{gate,up,down}}_proj"


class Target(NamedTuple):
    """A weight: dense by its name within the layer, or gate, up or down of a routed expert."""

    layer: int
    name: str
    expert: int | None  # None: dense


class AdapterTensor(NamedTuple):
    """What a tensor is."""

    module: str  # full name
    part: Literal["A", "B"]


def parse_tensor_name(name: str) -> AdapterTensor | None:
    """Module and part of a tensor; None for one that is no part of a plain LoRA."""
    found = _TENSOR.fullmatch(name)
    if found is None:
        return None
    return AdapterTensor(found["module"], "A" if found["part"] == "A" else "B")


def find_target(module: str, config: ModelConfig) -> Target | None:
    """The weight behind a module's name; None if it cannot be adapted, or is not in the model."""
    found = _IN_LAYER.fullmatch(module)
    if found is None or int(found[1]) >= config.num_layers:
        return None
    layer, within = int(found[1]), found[2]
    if within in _DENSE_BY_MODULE:
        return Target(layer, _DENSE_BY_MODULE[within], None)
    expert = _EXPERT.fullmatch(within)
    if expert is None or int(expert[1]) >= config.num_experts:
        return None
    return Target(layer, expert[2], int(expert[1]))


def find_stack(module: str, config: ModelConfig) -> int | None:
    """The layer whose experts a module's name means, all of them at once; None: it does not."""
    found = _IN_LAYER.fullmatch(module)
    is_stack = (
        found is not None and _STACK.fullmatch(found[2]) and int(found[1]) < config.num_layers
    )
    return int(found[1]) if found is not None and is_stack else None


def shape_of(target: Target, config: ModelConfig) -> Shape:
    """``(out, in)`` of a target."""
    if target.expert is None:
        return layer_shapes(config)[target.name]
    hidden, size = config.hidden_size, config.expert_size
    return (hidden, size) if target.name == "down" else (size, hidden)


def why_not(module: str) -> str:
    """Why a module cannot be adapted, in words."""
    if module.endswith("mlp.gate"):
        return "the gate, which chooses experts and must stay as it is"
    if module.endswith(("embed_tokens", "lm_head")):
        return "embedding or head, which adapters cannot change here"
    if ".vision_tower." in module or ".multi_modal_projector." in module:
        return "a part of the vision tower, which adapters cannot change here"
    return "no module of this model that can be adapted"
