"""Teaches the demo model's Eagle head what the model will say two tokens on, from its states.

The head sees the model's own states of training documents and learns the model's distributions two
tokens on, once from the model's states and once from its own, as it will have to go on alone
(HASS, arXiv:2408.15766, with two steps). Loss: cross-entropy against the model's softmax, where the
assistant writes, and smooth L1 on the states (EAGLE, arXiv:2401.15077, section 3.2).
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from cluster.demo.training.batches import Batch, batch_of
from cluster.demo.training.model import Layer, Model, Rows, linear, rms_norm, rotary
from cluster.demo.training.render import demo_renderer
from cluster.demo.training.schedule import learning_rate
from cluster.demo.training.sizes import DEMO, EAGLE
from cluster.demo.training.start import read_weights
from cluster.demo.training.vision import Tower, encode_all
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.eagle import FUSE
from shards.checkpoint.eagle_write import write_eagle
from shards.checkpoint.open import open_checkpoint

STATE_WEIGHT = 0.2  # of the smooth L1
SAVE_EVERY = 20  # steps
OWN_WEIGHT = 0.5  # of the pass on its own states
_OURS = {"gate": "shared_gate", "up": "shared_up", "down": "shared_down"}


class Head(nn.Module):
    """Next token and state -> next state. Its layers are the model's, with one routed expert."""

    def __init__(self, config: ModelConfig) -> None:
        """``config`` as ``shards.checkpoint.eagle.head_config`` gives it."""
        super().__init__()
        self.config = config
        self.fuse = linear(config.hidden_size, 2 * config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, rows: Rows, embedded: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """``[N, H]`` embeddings of every row's next token and ``[N, H]`` states -> ``[N, H]``."""
        x = torch.cat((embedded, states), dim=1) @ self.fuse.T
        cos, sin = rotary(self.config, rows)
        for layer in self.layers:
            x, _ = layer(x, rows, cos, sin)
        return rms_norm(x, self.norm, self.config.norm_eps)


class Teacher:
    """The demo model as served, and how well a head guesses what it says."""

    def __init__(self, checkpoint: Path) -> None:
        self.model, self.tower = Model(DEMO), Tower(DEMO)
        read_weights(open_checkpoint(checkpoint), self.model, self.tower)

    def losses(self, head: Head, batch: Batch) -> tuple[torch.Tensor, float, float]:
        """The loss, and the shares of first and second guesses that were the model's best."""
        with torch.no_grad():
            images = encode_all(self.tower, batch.pictures) if batch.pictures else None
            states, _ = self.model(batch.rows, images)
            targets = states.index_select(0, batch.target_rows)
            wanted = targets @ self.model.embed.T
            next_ids = batch.rows.ids.roll(-1)
            embedded = functional.embedding(next_ids, self.model.embed) * self.model.embed_scale
        behind = batch.target_rows - 1  # their next token is the target row's own
        first = head(batch.rows, embedded, states)
        # A row's own state stands in for the model's at the row behind it.
        second = head(batch.rows, embedded, first.roll(1, 0))
        loss, right = self._loss(first.index_select(0, behind), targets, wanted)
        own_loss, own_right = self._loss(second.index_select(0, behind), targets, wanted)
        return loss + OWN_WEIGHT * own_loss, right, own_right

    def _loss(
        self, guessed: torch.Tensor, targets: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        logits = guessed @ self.model.embed.T
        entropy = functional.cross_entropy(logits, wanted.softmax(dim=-1))
        distance = functional.smooth_l1_loss(guessed, targets)
        right = (logits.detach().argmax(-1) == wanted.argmax(-1)).float().mean()
        return entropy + STATE_WEIGHT * distance, float(right)


def train_eagle(
    checkpoint: Path, path: Path, *, seed: int, steps: int, tokens: int, rate: float, until: int
) -> None:
    """Train up to step ``until`` of ``steps``; goes on from ``path`` and writes it."""
    torch.manual_seed(seed)
    head, teacher, console = Head(EAGLE), Teacher(checkpoint), Console()
    optimizer = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    step = 0
    if path.exists():
        state = torch.load(path)
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    began = time.monotonic()
    while step < until:
        batch = batch_of(demo_renderer(), f"eagle/{seed}/{step}", 1.0, tokens)
        loss, right, own_right = teacher.losses(head, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            seconds = time.monotonic() - began
            text = f"loss {loss.item():.3f} right {right:.3f} from its own states {own_right:.3f}"
            console.print(f"step {step} {seconds:.0f} s {text}", highlight=False)
        if step % SAVE_EVERY == 0 or step == until:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = {"head": head.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(made, path)


def export_eagle(path: Path, target: Path) -> None:
    """Write a trained head in the native layout, in fp8.

    Raises:
        FileExistsError: ``target`` holds a checkpoint already.
    """
    head = Head(EAGLE)
    head.load_state_dict(torch.load(path)["head"])
    write_eagle(target, EAGLE, eagle_weights(head))


def eagle_weights(head: Head) -> dict[str, torch.Tensor]:
    """Weights by the names of ``shards.checkpoint.eagle.eagle_shapes``."""
    weights = {FUSE: head.fuse.detach(), "norm": head.norm.detach()}
    for index, layer in enumerate(head.layers):
        assert isinstance(layer, Layer)
        named = {name: p.detach() for name, p in layer.named_parameters()}
        del named["gate"]  # of one expert: it decides nothing
        gate, up = named.pop("experts_gate_up")[0].chunk(2)
        halves = {"gate": gate, "up": up, "down": named.pop("experts_down")[0]}
        for part, half in halves.items():
            both = (named.pop(_OURS[part]), half)
            named[f"mlp_{part}"] = torch.cat(both, dim=1 if part == "down" else 0)
        weights |= {f"layers.{index}.{name}": weight for name, weight in named.items()}
    return weights
