"""Training that goes on from an exported checkpoint, say the one inside the package."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from cluster.demo.training.export import tower_name
from cluster.demo.training.model import Model
from cluster.demo.training.sizes import DEMO
from cluster.demo.training.vision import Tower
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.weights import Checkpoint


def start_from(checkpoint_directory: Path, directory: Path) -> None:
    """Write ``start.pt`` and ``tower.pt``, from which the text stage begins.

    Raises:
        ValueError: A checkpoint of other sizes.
    """
    checkpoint = open_checkpoint(checkpoint_directory)
    if dataclasses.replace(checkpoint.config, is_fp8=DEMO.is_fp8) != DEMO:
        raise ValueError(f"model: {checkpoint_directory} has other sizes than the demo model")
    model, tower = Model(DEMO), Tower(DEMO)
    read_weights(checkpoint, model, tower)
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), directory / "start.pt")
    torch.save(tower.state_dict(), directory / "tower.pt")


@torch.no_grad()
def read_weights(checkpoint: Checkpoint, model: Model, tower: Tower) -> None:
    """Undo ``export``, but for what rounding has taken."""
    named = dict(model.named_parameters())
    _fill(named.pop("embed"), checkpoint, "head")  # the file's embed carries a scale
    for name, p in named.items():
        if ".experts_" not in name:
            _fill(p, checkpoint, name)
    for layer in range(model.config.num_layers):
        gate_up = named[f"layers.{layer}.experts_gate_up"]
        down = named[f"layers.{layer}.experts_down"]
        for index in range(model.config.num_experts):
            expert = checkpoint.expert(layer, index)
            gate_up[index] = torch.cat([w.to(torch.float32) for w in expert.gate_up])
            down[index] = expert.down.to(torch.float32)
    for name, p in tower.named_parameters():
        _fill(p, checkpoint, tower_name(name))


def _fill(p: nn.Parameter, checkpoint: Checkpoint, name: str) -> None:
    p.copy_(checkpoint.dense(name).to(torch.float32).view_as(p))
