"""The Eagle head of a model: a small decoder that guesses what the large one says next.

Native layout: ``params.json`` and ``consolidated*.safetensors``. Embedding and output head are the
large model's, and not in the file. Source: model reference, section 6.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from galerne.errors import CheckpointError
from shards.checkpoint.check import check_tensors
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.fields import Fields, read_json
from shards.checkpoint.layout_native import NATIVE_NAMES
from shards.checkpoint.mapped import MappedCheckpoint
from shards.checkpoint.names import (
    ExpertSources,
    Layout,
    Shape,
    Source,
    can_be_fp8,
    layer_shapes,
)
from shards.checkpoint.open import NATIVE_STEM
from shards.checkpoint.tensor_files import has_files, open_files
from shards.checkpoint.weights import ExpertWeights, Weight
from shards.kernels.formats import WeightFormat

FUSE = "fuse"  # our name of eagle_linear
MLP = {"gate": "w1", "up": "w3", "down": "w2"}
_WIDE = WeightFormat.BF16
_SCALE = "qscale_weight"
# Sizes of its attention, which are the large model's; the file may leave them out.
_ATTENTION = {
    "dim": "hidden_size",
    "n_heads": "num_heads",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "vocab_size": "vocab_size",
}


class EagleCheckpoint:
    """Satisfies ``Checkpoint``, so that the decoder's layers compute it as they are.

    A dense gated MLP is the sum of two with half its width each; one half is handed out as each
    layer's shared expert, the other as its only routed one.
    """

    def __init__(self, config: ModelConfig, file: MappedCheckpoint) -> None:
        """``config``: see ``head_config``; ``file`` has the weights under our names."""
        self._config = config
        self._file = file

    @property
    def config(self) -> ModelConfig:
        """Sizes of the head as layers with one routed and one shared expert."""
        return self._config

    @property
    def fingerprint(self) -> str:
        """See ``Checkpoint``."""
        return self._file.fingerprint

    @property
    def bytes_read(self) -> int:
        """See ``Checkpoint``."""
        return self._file.bytes_read

    def release(self) -> None:
        """See ``Checkpoint``."""
        self._file.release()

    def dense(self, name: str) -> Weight:
        """As ``Checkpoint.dense``; also ``fuse`` ``[H, 2 H]``. No ``embed`` and no ``head``."""
        short = name.rsplit(".", 1)[-1]
        if short == "gate":  # of one expert: all go there with weight 1
            import torch

            return Weight(torch.zeros((1, self._config.hidden_size), dtype=torch.bfloat16))
        if short in ("shared_gate", "shared_up", "shared_down"):
            return self._half(name.replace("shared_", "mlp_"), is_first=True)
        return self._file.dense(name)

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """The second half of a layer's MLP."""
        if expert:
            raise IndexError(f"expert {expert} of 1")
        stem = f"layers.{layer}.mlp_"
        gate, up, down = (self._half(stem + part, is_first=False) for part in MLP)
        return ExpertWeights((gate, up), down)

    def _half(self, name: str, *, is_first: bool) -> Weight:
        weight, width = self._file.dense(name), self._config.expert_size
        axis = 1 if name.endswith("down") else 0
        part = weight.data.narrow(axis, 0 if is_first else width, width)
        return weight._replace(data=part.contiguous())


def open_eagle(path: Path, target: ModelConfig) -> EagleCheckpoint:
    """Open and check the head in a directory, for the model with these sizes.

    Raises:
        CheckpointError: Anything is missing, damaged, or of another size than the model: names the
            file and the key or tensor.
    """
    if not (path / "params.json").exists() or not has_files(path, NATIVE_STEM):
        expected = f"params.json with {NATIVE_STEM}*.safetensors"
        raise CheckpointError(str(path), None, expected, "not both")
    params = read_json(path / "params.json")
    config = head_config(params, target)
    tensors = open_files(path, NATIVE_STEM)
    layout = eagle_layout(config)
    stored = replace(config, num_experts=0)  # nothing in the file is an expert's
    return EagleCheckpoint(
        config, MappedCheckpoint(stored, layout, tensors, check_tensors(stored, layout, tensors))
    )


def head_config(params: Fields, target: ModelConfig) -> ModelConfig:
    """Sizes of the head, with its MLP cut in two.

    Raises:
        CheckpointError: A size is not the model's, or the MLP cannot be cut.
    """
    for key, name in _ATTENTION.items():
        params.require(key, getattr(target, name))
    width = params.count("hidden_dim")
    if width % 4:  # each half must have an even number of inputs
        raise params.error("hidden_dim", "as a multiple of 4")
    is_fp8 = params.has("quantization")
    if is_fp8:
        params.section("quantization").require("qformat_weight", "fp8_e4m3", may_miss=False)
    return replace(
        target,
        num_layers=params.count("n_layers"),
        num_experts=1,
        num_experts_per_tok=1,
        num_shared_experts=1,
        expert_size=width // 2,
        routed_scaling_factor=1.0,
        norm_eps=params.number("norm_eps", target.norm_eps),
        tie_word_embeddings=False,
        is_fp8=is_fp8,
        experts_held=_WIDE,
        dense_held=_WIDE,
        vision=None,
    )


def eagle_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shape of every weight of the file, by our names."""
    hidden, width = config.hidden_size, 2 * config.expert_size
    shapes: dict[str, Shape] = {FUSE: (hidden, 2 * hidden), "norm": (hidden,)}
    inner = {
        name: shape
        for name, shape in layer_shapes(config).items()
        if name != "gate" and not name.startswith("shared_")
    }
    inner |= {"mlp_gate": (width, hidden), "mlp_up": (width, hidden), "mlp_down": (hidden, width)}
    for layer in range(config.num_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in inner.items()}
    return shapes


def eagle_layout(config: ModelConfig) -> Layout:
    """Where the file stores what."""
    dense = {}
    for name, shape in eagle_shapes(config).items():
        stored = _stored_name(name)
        has_scale = name == FUSE or ".mlp_" in name or can_be_fp8(name)
        scale = f"{stored.removesuffix('weight')}{_SCALE}" if has_scale else None
        dense[name] = Source(stored, shape, scale)
    return Layout(kind="native", dense=dense, expert=_no_expert)


def _stored_name(name: str) -> str:
    if name == FUSE:
        return "eagle_linear.weight"
    if ".mlp_" in name:
        layer, part = name.split(".mlp_")
        return f"{layer}.feed_forward.{MLP[part]}.weight"
    return NATIVE_NAMES.stored_name(name)


def _no_expert(layer: int, expert: int) -> ExpertSources:
    raise KeyError(f"expert {expert} of layer {layer}: the head has none")
