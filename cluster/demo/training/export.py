"""The trained weights as a checkpoint in the native layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from cluster.demo.training.model import Layer, Model
from cluster.demo.training.sizes import DEMO
from router.chat.tokenizer import EMBEDDED_TOKENIZER, TOKENIZER_FILE_NAME
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import dense_shapes
from shards.checkpoint.native_write import Experts, write_native_checkpoint

_TOWER_NAMES = {"projector_": "projector.", "layers.": "vision.layers.", "": "vision."}


def export(directory: Path, target: Path, *, is_fp8: bool) -> None:
    """Write ``text.pt`` and ``tower.pt`` of ``directory`` as a checkpoint, with its tokenizer.

    Raises:
        FileExistsError: ``target`` holds a checkpoint already.
    """
    model = Model(DEMO)
    model.load_state_dict(torch.load(directory / "text.pt")["model"])
    tower = torch.load(directory / "tower.pt")
    config = replace(DEMO, is_fp8=is_fp8)
    weights = dense_weights(model, tower, config)
    write_native_checkpoint(target, config, weights, expert_weights(model))
    shutil.copyfile(EMBEDDED_TOKENIZER, target / TOKENIZER_FILE_NAME)


def expert_weights(model: Model) -> Experts:
    """Gate, up and down of a routed expert."""

    def expert(layer: int, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weights = model.layers[layer]
        assert isinstance(weights, Layer)
        gate, up = weights.experts_gate_up[index].detach().chunk(2)
        return gate, up, weights.experts_down[index].detach()

    return expert


def dense_weights(
    model: Model, tower: Mapping[str, torch.Tensor], config: ModelConfig
) -> dict[str, torch.Tensor]:
    """Dense weights by the names of ``shards.checkpoint.names``.

    The file has two embeddings: the input's carries the scale that the training multiplies with.
    """
    weights = {name: p.detach() for name, p in model.named_parameters() if ".experts_" not in name}
    weights["head"] = weights["embed"]
    weights["embed"] = weights["embed"] * model.embed_scale
    for name, weight in tower.items():
        weights[tower_name(name)] = weight
    shapes = dense_shapes(config)
    return {name: weights[name].reshape(shapes[name]) for name in shapes}


def tower_name(name: str) -> str:
    """A tower's parameter by the names of ``shards.checkpoint.names``."""
    prefix = next(prefix for prefix in _TOWER_NAMES if name.startswith(prefix))
    return _TOWER_NAMES[prefix] + name.removeprefix(prefix)
