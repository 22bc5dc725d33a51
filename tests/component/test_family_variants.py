"""Fine-tuned and resized checkpoints of the family are served as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.cluster import remote_exchange
from helpers.fixture_models import greedy, run_prompt, runner
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import preset
from shards.checkpoint.random_checkpoint import write_random_checkpoint

VARIANTS = {
    "fewer layers and experts": {"num_layers": 3, "num_experts": 12, "num_experts_per_tok": 3},
    "another vocabulary and width": {"vocab_size": 611, "hidden_size": 96, "expert_size": 40},
    "two shared experts, tied head": {"num_shared_experts": 2, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_served_as_the_reference_computes_it_and_alike_by_shards(tmp_path, variant):
    config = replace(preset("tiny", num_layers=2), **VARIANTS[variant])
    write_random_checkpoint(tmp_path / "own-name", config, seed=3)
    source = open_checkpoint(tmp_path / "own-name")
    assert source.config == config
    prompt = np.random.default_rng(3).integers(20, config.vocab_size, 30).tolist()
    exact = run_prompt(runner(source, torch.float32), prompt)
    model = runner(source, torch.bfloat16)
    assert exact.shape == (30, config.vocab_size)
    gap = np.linalg.norm(run_prompt(model, prompt) - exact) / np.linalg.norm(exact)
    assert gap < 0.05
    local = greedy(model, prompt, 6)
    with remote_exchange(2, source=source, path=tmp_path / "own-name") as (exchange, _):
        assert greedy(runner(source, torch.bfloat16, exchange=exchange), prompt, 6) == local
