"""After a gateway's start a GPU compiles nothing more, and guesses are verified by graphs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, HAS_GPU, triton
from helpers.triton_models import blocks_for, run_prompt, runner
from router.model.runner import SequenceChunk
from router.model.warm import beside, warm_runner
from router.model.warm_steps import StepLimits, plain_steps
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device"),
]
LIMITS = StepLimits(max_tokens=512, max_alone=40, max_model_len=2048)
SOURCE = replace(preset("full-layer"), num_experts=8, num_layers=2)


def test_after_warming_nothing_is_compiled_and_a_verified_chunk_has_the_bits_of_a_prompt(
    monkeypatch,
):
    model = runner(SyntheticCheckpoint(SOURCE, 7, DEVICE), torch.bfloat16, num_blocks=300)
    steps = plain_steps(LIMITS, records=True)
    warm_runner(beside(model), steps, lambda done, of: None)
    graphs = len(model.decoder._layers.graphs)
    assert graphs > 10
    compiled = []
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_post_compile_hook", lambda **what: compiled.append(what["repr"])
    )
    ids = np.random.default_rng(1).integers(0, 4096, 300).tolist()
    whole = run_prompt(model, ids)
    mine, others = blocks_for(300, 50), blocks_for(300, 100)
    model.run(0, [SequenceChunk(ids, 0, 250, mine, 0), SequenceChunk(ids, 0, 100, others, 0)])
    at = 250
    for count in (1, 5, 2, 9, 3):
        chunks = [SequenceChunk(ids, at, count, mine, count)]
        chunks += [SequenceChunk(ids, at - 150, 1, others, 1)] * (count % 2)
        got = model.run(0, chunks)[:count]
        assert got.tobytes() == whole[at : at + count].tobytes()
        at += count
    assert compiled == []
    assert len(model.decoder._layers.graphs) == graphs
