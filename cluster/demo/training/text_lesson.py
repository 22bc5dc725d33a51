"""The training of the text model, with the tower as it left its own lesson."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cluster.demo.training.batches import Batch, batch_of
from cluster.demo.training.exact import exact_match
from cluster.demo.training.head import head_loss
from cluster.demo.training.model import Model
from cluster.demo.training.optimizer import Optimizer
from cluster.demo.training.progress import Progress
from cluster.demo.training.render import demo_renderer
from cluster.demo.training.rounding import rounded_to_fp8
from cluster.demo.training.schedule import ROUNDED_FROM, balance_weight, learning_rate
from cluster.demo.training.sizes import DEMO
from cluster.demo.training.vision import Tower, encode_all
from cluster.demo.training.workers import Gradients, Worker, training_device

SAVE_EVERY_S = 300.0


class Settings(NamedTuple):
    """What a run is made of; the same values give the same weights."""

    seed: int
    steps: int
    tokens: int  # per worker and step
    peak_rate: float
    directory: Path
    until: int  # the step to stop after; the schedule is that of ``steps``


class Trainer:
    """Model, frozen tower, optimiser; one worker's share."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        """Starts from the last saved state in the directory, else from ``start.pt`` or the seed.

        Raises:
            ValueError: The saved state was made with another seed, batch, rate or worker count.
        """
        torch.manual_seed(settings.seed)
        self.worker, self.settings = worker, settings
        self.device = training_device()
        self.model = Model(DEMO).to(self.device)
        self.tower = Tower(DEMO).requires_grad_(False).to(self.device)
        self.tower.load_state_dict(torch.load(settings.directory / "tower.pt"))
        self.gradients = Gradients(self.model.parameters(), worker)
        self.optimizer = Optimizer(self.model)
        self.step = 0
        self._sampler = torch.Generator()
        path, start = self.state_path, settings.directory / "start.pt"
        self.is_continued = start.exists()
        if path.exists():
            state = torch.load(path, map_location=self.device)
            for name, value in self._made_with.items():
                if state["made_with"][name] != value:
                    found = state["made_with"][name]
                    raise ValueError(f"{name}: {path} was made with {found}, not {value}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        elif self.is_continued:
            self.model.load_state_dict(torch.load(start, map_location=self.device))

    @property
    def _made_with(self) -> dict[str, float]:
        """What must not change when a run is resumed; the schedule of the rest of it may."""
        seed, _, tokens, rate, *_ = self.settings
        return {"seed": seed, "tokens": tokens, "peak_rate": rate, "workers": self.worker.size}

    @property
    def state_path(self) -> Path:
        """Where a run is saved and resumed."""
        return self.settings.directory / "text.pt"

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step; returns figures to show."""
        settings, step = self.settings, self.step
        batch = batch.to(self.device)
        self._sampler.manual_seed(step * self.worker.size + self.worker.rank)
        is_rounded = DEMO.is_fp8 and step >= settings.steps * ROUNDED_FROM
        self.gradients.zero()
        with rounded_to_fp8(self.model) if is_rounded else nullcontext():
            hidden, balances = self.model(batch.rows, self.features(batch))
            answers = hidden.index_select(0, batch.target_rows)
            loss, right = head_loss(answers, self.model.embed, batch.target_ids, self._sampler)
            even = balance_weight(step, settings.steps) * balances.sum()
            (loss + even).backward()
        norm = self.gradients.average(1.0)
        self.optimizer.step(learning_rate(step, settings.steps, settings.peak_rate))
        self.step += 1
        return {
            "loss": loss.item(),
            "right": right.item(),
            "balance": balances.mean().item(),
            "norm": norm,
            "tokens": len(batch.rows.ids) * self.worker.size,
        }

    def features(self, batch: Batch) -> torch.Tensor | None:
        """Image features of a batch; the tower no longer learns."""
        if not batch.pictures:
            return None
        with torch.no_grad():
            return encode_all(self.tower, batch.pictures)

    def save(self) -> None:
        """Keep what resuming needs; a run stopped while saving keeps the state before."""
        part = self.state_path.with_suffix(".part")
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "made_with": self._made_with,
        }
        torch.save(state, part)
        part.replace(self.state_path)


def train_text(worker: Worker, settings: Settings) -> None:
    """Train until ``settings.until``, saving and grading every 5 minutes."""
    trainer = Trainer(worker, settings)
    path = settings.directory / "text.csv"
    progress = Progress(worker, "text", settings.steps, path, trainer.step)
    saved = time.monotonic()
    while trainer.step < settings.until:
        seed = f"{settings.seed}/{worker.rank}/{trainer.step}"
        # Who goes on from an earlier model needs no first lessons.
        share = 1.0 if trainer.is_continued else trainer.step / settings.steps
        batch = batch_of(demo_renderer(), seed, share, settings.tokens)
        progress.show(trainer.step, **trainer.learn(batch))
        if worker.is_first and time.monotonic() - saved > SAVE_EVERY_S:
            trainer.save()
            _grade(trainer)
            saved = time.monotonic()
    progress.close()
    if worker.is_first:
        trainer.save()
        _grade(trainer)


def _grade(trainer: Trainer) -> None:
    """Append the exact match of every task, on weights rounded to fp8, to ``exact.jsonl``."""
    with rounded_to_fp8(trainer.model):
        rates = exact_match(trainer.model, trainer.tower, per_task=32, seed=trainer.settings.seed)
    row = {"step": trainer.step, "time": round(time.time()), **rates}
    with (trainer.settings.directory / "exact.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
