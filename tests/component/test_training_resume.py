"""Training depends on seed, steps and workers alone, and goes on where it stopped."""

import pytest
import torch

from cluster.demo.training.batches import batch_of
from cluster.demo.training.progress import Progress
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


def test_a_run_is_not_resumed_with_another_seed(trainer):
    first = trainer()
    learn(first, 1)
    first.save()
    other = first.settings._replace(seed=2)
    with pytest.raises(ValueError, match=r"seed: .*made with 1, not 2"):
        Trainer(Worker(0, 1), other)


def test_rows_of_steps_that_are_made_again_are_dropped(tmp_path):
    path = tmp_path / "text.csv"
    path.write_text("step,seconds,loss\n20,10.0,3\n40,20.5,2\n60,31.0,1\n")
    progress = Progress(Worker(0, 1), "text", 100, path, done=45)
    for step in range(45, 60):
        progress.show(step, loss=5.0)
    progress.close()
    steps, seconds, losses = zip(*(row.split(",") for row in path.read_text().split()), strict=True)
    assert steps == ("step", "20", "40", "60")
    assert losses == ("loss", "3", "2", "5")
    assert float(seconds[-1]) >= 20.5


def test_a_step_moves_every_weight_that_a_token_uses(trainer):
    one = trainer()
    before = weights_of(one)
    learn(one, 1)
    moved = {name for name, p in one.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
