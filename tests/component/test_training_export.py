"""What was trained is what is served: the training's own forward pass against the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from cluster.demo.lessons.pictures import random_scene
from cluster.demo.lessons.scene import Scene
from cluster.demo.training.export import dense_weights, expert_weights
from cluster.demo.training.model import Model, Rows
from cluster.demo.training.sizes import DEMO
from cluster.demo.training.start import read_weights, start_from
from cluster.demo.training.vision import MEAN, STD, Tower
from router.model.reference import ReferenceModel
from router.model.vision import VisionTower
from shards.checkpoint.native_write import write_native_checkpoint
from shards.checkpoint.open import open_checkpoint

CONFIG = replace(DEMO, num_layers=2, num_experts=8, vocab_size=300, is_fp8=False)


def _round(module: torch.nn.Module) -> None:
    """To what bf16 can hold, so that the file holds the same weights."""
    for p in module.parameters():
        p.data = p.data.to(torch.bfloat16).float()


def test_logits_and_features_equal_the_reference_model(tmp_path: Path) -> None:
    """In float32 to 2e-4, with two sequences in one padded batch and a picture in one of them."""
    torch.manual_seed(1)
    model, tower = Model(CONFIG), Tower(CONFIG)
    model.embed_scale = 4.0  # a power of two: the scaled embedding is as exact in bf16
    _round(model)
    _round(tower)
    weights = dense_weights(model, tower.state_dict(), CONFIG)
    write_native_checkpoint(tmp_path / "m", CONFIG, weights, expert_weights(model))
    checkpoint = open_checkpoint(tmp_path / "m")

    picture = Scene(56, random_scene(Random(1), "train").objects).pixels()
    with torch.no_grad():
        features = tower(torch.from_numpy(picture)[None])[0]
    pixels = ((picture / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    served = VisionTower(checkpoint, torch.float32).encode(pixels.astype(np.float32))
    torch.testing.assert_close(features, served, rtol=0, atol=2e-4)

    image, end = 10, 13
    first = [1, 3, image, image, 12, image, image, end, 40, 41, 42, 43, 44, 4]
    second = [1, 3, 50, 51, 52, 53, 4]
    rows = Rows(
        torch.tensor(first + second + [11] * (len(first) - len(second))),
        torch.tensor([True] * (len(first) + len(second)) + [False] * (len(first) - len(second))),
        ((2, len(first)),),
    )
    with torch.no_grad():
        hidden, _ = model(rows, features)
        logits = hidden @ model.embed.T
    reference = ReferenceModel(checkpoint)
    places = [i for i, token in enumerate(first) if token == image]
    wanted = reference.forward(first, list(zip(places, features, strict=True))).logits
    torch.testing.assert_close(logits[: len(first)], wanted, rtol=0, atol=2e-4)
    wanted = reference.forward(second).logits
    ours = logits[len(first) : len(first) + len(second)]
    torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-4)


def test_training_goes_on_from_what_was_exported(tmp_path: Path) -> None:
    """Export to bf16, read back: the same weights."""
    torch.manual_seed(1)
    model, tower = Model(CONFIG), Tower(CONFIG)
    model.embed_scale = 4.0
    _round(model)
    _round(tower)
    weights = dense_weights(model, tower.state_dict(), CONFIG)
    write_native_checkpoint(tmp_path / "m", CONFIG, weights, expert_weights(model))
    again, tower_again = Model(CONFIG), Tower(CONFIG)
    read_weights(open_checkpoint(tmp_path / "m"), again, tower_again)
    for ours, theirs in ((again, model), (tower_again, tower)):
        want = theirs.state_dict()
        assert all(torch.equal(p, want[name]) for name, p in ours.state_dict().items())
    with pytest.raises(ValueError, match="other sizes"):
        start_from(tmp_path / "m", tmp_path)
