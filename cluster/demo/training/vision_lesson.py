"""The tower's own lesson: what lies under every patch, told by a linear probe of the features."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cluster.demo.lessons.pictures import random_scene
from cluster.demo.lessons.scene import COLOURS, GRID, SHAPES, SIDES, SIZES, Scene, cell_of_pixel
from cluster.demo.training.progress import Progress
from cluster.demo.training.schedule import learning_rate
from cluster.demo.training.sizes import DEMO, VISION
from cluster.demo.training.vision import Tower
from cluster.demo.training.workers import Gradients, Worker, training_device

BATCH = 48  # pictures of one size, per worker and step
PEAK_RATE = 2e-3
# Row and column of the cell, then what is in it; 0 stands for nothing.
CLASSES = (GRID, GRID, len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1)


def train_tower(worker: Worker, seed: int, steps: int, path: Path) -> None:
    """Train for ``steps`` steps and write the tower's weights to ``path``."""
    torch.manual_seed(seed)
    device = training_device()
    tower = Tower(DEMO).to(device)
    merged = VISION.spatial_merge_size**2
    probe = nn.Linear(DEMO.hidden_size, sum(CLASSES) * merged).to(device)
    parameters = [*tower.parameters(), *probe.parameters()]
    gradients = Gradients(parameters, worker)
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    progress = Progress(worker, "vision", steps, path.with_suffix(".csv"))
    rng = Random(f"{seed}/vision/{worker.rank}")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK_RATE)
        scenes = draw_scenes(rng)
        pixels = torch.from_numpy(np.stack([scene.pixels() for scene in scenes]))
        answers = probe(tower(pixels.to(device)))
        logits = answers.view(*answers.shape[:2], merged, -1)
        loss, accuracy = grade(logits, labels(scenes).to(device))
        gradients.zero()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.average(1.0)
        optimizer.step()
        progress.show(step, loss=loss.item(), correct=accuracy, side=scenes[0].side)
    progress.close()
    if worker.is_first:
        torch.save(tower.state_dict(), path)


def draw_scenes(rng: Random) -> list[Scene]:
    """Pictures of one size; fewer of them where they are large."""
    side = rng.choice(SIDES)
    count = max(8, BATCH * 112**2 // max(side, 84) ** 2)
    return [Scene(side, random_scene(rng, "train").objects) for _ in range(count)]


def labels(scenes: list[Scene]) -> torch.Tensor:
    """``[B, tokens, 4, 5]`` classes of the 4 patches behind every token: (dy, dx) row-major."""
    side = scenes[0].side
    patch, grid = VISION.patch_size, side // VISION.patch_size
    cells = [cell_of_pixel(side, i * patch + patch // 2) for i in range(grid)]
    table = np.zeros((len(scenes), GRID, GRID, 3), dtype=np.int64)
    for i, scene in enumerate(scenes):
        for item in scene.objects:
            table[i, item.cell // GRID, item.cell % GRID] = (
                COLOURS.index(item.colour) + 1,
                SHAPES.index(item.shape) + 1,
                SIZES.index(item.size) + 1,
            )
    y, x = np.meshgrid(cells, cells, indexing="ij")
    inside = table[:, y, x]  # [B, grid, grid, 3]
    place = np.broadcast_to(np.stack((y, x), -1), (len(scenes), grid, grid, 2))
    both = torch.from_numpy(np.concatenate((place, inside), -1))
    merge = VISION.spatial_merge_size
    half = grid // merge
    blocks = both.view(len(scenes), half, merge, half, merge, len(CLASSES))
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(len(scenes), half * half, merge**2, -1)


def grade(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean loss of the five questions, and the share of patches with all five right."""
    loss = torch.zeros((), device=logits.device)
    right = torch.ones(wanted.shape[:-1], dtype=torch.bool, device=logits.device)
    for i, part in enumerate(torch.split(logits, list(CLASSES), dim=-1)):
        loss = loss + functional.cross_entropy(part.flatten(0, 2), wanted[..., i].flatten())
        right &= part.argmax(-1) == wanted[..., i]
    return loss, float(right.float().mean())
