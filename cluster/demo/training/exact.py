"""Exact match on test documents, under teacher forcing: a cheap stand-in for decoding."""

from __future__ import annotations

from random import Random

import torch

from cluster.demo.lessons.curriculum import LESSONS
from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.training.batches import pack
from cluster.demo.training.model import Model
from cluster.demo.training.render import demo_renderer
from cluster.demo.training.vision import Tower, encode_all


@torch.no_grad()
def exact_match(model: Model, tower: Tower, per_task: int, seed: int) -> dict[str, float]:
    """Share of test documents whose every written id is the model's best, by task and effort.

    Equal to greedy decoding giving exactly the known answers, reasoning included.
    """
    rates = {}
    for task, lesson in LESSONS.items():
        rng = Random(f"{seed}/exact/{task}")
        documents = [lesson(rng, "test", LANGUAGES[i % len(LANGUAGES)]) for i in range(per_task)]
        for effort in ("none", "high"):
            rendered = [demo_renderer().render(d) for d in documents if d.effort == effort]
            if not rendered:
                continue
            batch = pack(rendered).to(model.embed.device)
            images = encode_all(tower, batch.pictures) if batch.pictures else None
            hidden, _ = model(batch.rows, images)
            best = (hidden.index_select(0, batch.target_rows) @ model.embed.T).argmax(-1)
            right = (best == batch.target_ids).split(
                [sum(d.is_target) for d in sorted(rendered, key=lambda d: -len(d.ids))]
            )
            rates[f"{task}/{effort}"] = sum(bool(r.all()) for r in right) / len(rendered)
    return rates
