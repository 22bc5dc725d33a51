"""Our own names of the dense weights, their shapes, and where a layout stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shards.checkpoint.config import ModelConfig, VisionConfig
from shards.kernels.formats import GROUP, WeightFormat

Shape = tuple[int, ...]
LayoutKind = Literal["hf", "native"]

# What the fp8 checkpoints store in fp8, besides the routed experts.
FP8_LINEARS = frozenset(
    {"q_a", "q_b", "kv_a", "kv_b", "o", "shared_gate", "shared_up", "shared_down"}
)
# What ``--dense`` holds in fewer bits: all of these but what the absorbed form is made of.
QUANTISED_LINEARS = FP8_LINEARS - {"kv_b"}


class Source(NamedTuple):
    """Where one weight lies, and what must be there."""

    name: str  # tensor in the files
    shape: Shape  # of the whole weight
    scale_name: str | None = None  # tensor of its scales; None: is never fp8 nor codes
    stack_index: int | None = None  # slice of a stack along its first axis
    has_rotary_pairs: bool = False  # rows of a head lie as (d/2, 2) instead of (2, d/2)
    held: WeightFormat = WeightFormat.BF16  # other than bf16: codes, and their scales

    @property
    def stored_shape(self) -> Shape:
        """Of the tensor in the file."""
        if self.held is not WeightFormat.INT4:
            return self.shape
        return (self.shape[0], -(-self.shape[1] // GROUP), GROUP // 2)  # two codes a byte

    @property
    def scale_shape(self) -> Shape:
        """Of the scales of codes."""
        return self.stored_shape[: 1 if self.held is WeightFormat.INT8 else 2]


class ExpertSources(NamedTuple):
    """Where one routed expert lies; fields as in ``ExpertWeights``."""

    gate_up: tuple[Source, ...]
    down: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a checkpoint stores what."""

    kind: LayoutKind
    dense: Mapping[str, Source]  # by our name
    expert: Callable[[int, int], ExpertSources]  # of (layer, expert)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTable:
    """A layout's names. The last part of our names to theirs, by the part of the model."""

    top: Mapping[str, str]  # all names outside of layers, in full
    layers: str  # what comes before the number of a text layer
    layer: Mapping[str, str]
    vision_layers: str
    vision_layer: Mapping[str, str]

    def stored_name(self, name: str) -> str:
        """Name in the files of the dense weight that we call ``name``."""
        if name in self.top:
            return self.top[name]
        prefix, number, short = name.rsplit(".", 2)
        if prefix == "layers":
            return f"{self.layers}{number}.{self.layer[short]}"
        return f"{self.vision_layers}{number}.{self.vision_layer[short]}"


def dense_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every dense weight by our name; no ``head`` where it is tied to ``embed``.

    Source: model reference, section 4a.
    """
    embedding = (config.vocab_size, config.hidden_size)
    shapes: dict[str, Shape] = {"embed": embedding}
    for layer in range(config.num_layers):
        shapes |= {f"layers.{layer}.{k}": shape for k, shape in layer_shapes(config).items()}
    shapes["norm"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["head"] = embedding
    if config.vision is not None:
        shapes |= vision_shapes(config.vision, config.hidden_size)
    return shapes


def layer_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes within one text layer."""
    hidden, heads, shared = config.hidden_size, config.num_heads, config.shared_size
    return {
        "input_norm": (hidden,),
        "q_a": (config.q_lora_rank, hidden),
        "q_a_norm": (config.q_lora_rank,),
        "q_b": (heads * config.qk_head_dim, config.q_lora_rank),
        "kv_a": (config.latent_dim, hidden),
        "kv_a_norm": (config.kv_lora_rank,),
        "kv_b": (heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank),
        "o": (hidden, heads * config.v_head_dim),
        "post_norm": (hidden,),
        "gate": (config.num_experts, hidden),
        "shared_gate": (shared, hidden),
        "shared_up": (shared, hidden),
        "shared_down": (hidden, shared),
    }


def vision_shapes(vision: VisionConfig, text_hidden_size: int) -> dict[str, Shape]:
    """Shapes within the vision tower and the projector. Source: model reference, section 3."""
    width, mlp, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    shapes: dict[str, Shape] = {
        "vision.patch_conv": (width, vision.num_channels, patch, patch),
        "vision.ln_pre": (width,),
    }
    for layer in range(vision.num_layers):
        p = f"vision.layers.{layer}."
        shapes |= {f"{p}{name}": (width,) for name in ("attention_norm", "ffn_norm")}
        shapes |= {f"{p}{name}": (width, width) for name in "qkvo"}
        shapes |= {f"{p}gate": (mlp, width), f"{p}up": (mlp, width), f"{p}down": (width, mlp)}
    shapes["projector.norm"] = (width,)
    shapes["projector.merge"] = (width, width * vision.spatial_merge_size**2)
    shapes["projector.linear_1"] = (text_hidden_size, width)
    shapes["projector.linear_2"] = (text_hidden_size, text_hidden_size)
    return shapes


def can_be_quantised(name: str) -> bool:
    """Whether ``--dense`` holds the dense weight of this name in fewer bits."""
    short = name.rsplit(".", 1)[-1]
    return name == "head" or (name.startswith("layers.") and short in QUANTISED_LINEARS)


def can_be_fp8(name: str) -> bool:
    """Whether fp8 checkpoints may store the dense weight of this name in fp8."""
    return name.startswith("layers.") and name.rsplit(".", 1)[1] in FP8_LINEARS
