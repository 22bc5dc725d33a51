"""Training depends on seed, steps and workers alone, and goes on where it stopped."""

import pytest
import torch

from cluster.demo.training.batches import batch_of
from cluster.demo.training.render import demo_renderer
from cluster.demo.training.schedule import ROUNDED_FROM
from cluster.demo.training.sizes import DEMO
from cluster.demo.training.text_lesson import Settings, Trainer
from cluster.demo.training.vision import Tower
from cluster.demo.training.workers import Worker

STEPS = 7  # the last one on rounded weights
TOKENS = 200


@pytest.fixture
def trainer(tmp_path):
    """Makes trainers that all start from the same directory."""
    torch.manual_seed(1)
    torch.save(Tower(DEMO).state_dict(), tmp_path / "tower.pt")
    settings = Settings(1, STEPS, TOKENS, 3e-3, tmp_path, until=STEPS)
    return lambda: Trainer(Worker(0, 1), settings)


def learn(trainer, num_steps):
    for _ in range(num_steps):
        progress = trainer.step / STEPS
        trainer.learn(batch_of(demo_renderer(), f"seed {trainer.step}", progress, TOKENS))


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_a_resumed_run_ends_with_the_same_weights(trainer):
    assert STEPS - 1 >= STEPS * ROUNDED_FROM > STEPS - 2
    torch.set_num_threads(1)
    straight = trainer()
    learn(straight, STEPS)
    want = weights_of(straight)

    first = trainer()
    learn(first, 2)
    first.save()
    second = trainer()
    assert second.step == 2
    learn(second, STEPS - 2)
    got = weights_of(second)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_step_moves_every_weight_that_a_token_uses(trainer):
    one = trainer()
    before = weights_of(one)
    learn(one, 1)
    moved = {name for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
