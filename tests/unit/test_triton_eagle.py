"""The Eagle head by the GPU's kernels, and the rows that guesses are verified with."""

import numpy as np
import pytest
import torch

from helpers.eagle_heads import random_head
from helpers.triton_device import DEVICE, DEVICE_NAME, bits_equal, randn
from helpers.triton_models import BLOCK_SIZE, blocks_for, checkpoint, prompt, run_prompt, runner
from helpers.verified_chunks import assert_rows_are_of_single_steps
from router.model.batch import Chunk
from router.model.decoder import Decoder
from router.model.eagle import EagleHead
from router.model.triton_decode import DecodeGraphs
from shards.kernels.formats import WeightFormat

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16, FP32 = torch.bfloat16, torch.float32
SOURCE = checkpoint()
HIDDEN = SOURCE.config.hidden_size
NEXT_IDS = np.random.default_rng(4).integers(20, 200, 21).tolist()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return random_head(tmp_path_factory.mktemp("head"), SOURCE.config)


def head(opened, dtype, device=DEVICE_NAME):
    decoder = Decoder(SOURCE, dtype, device=device)
    return EagleHead(opened, decoder, 8, BLOCK_SIZE, dtype, 1, device)


def run(made, states, cuts, table=(3, 1)):
    """The states of a sequence whose rows come in chunks."""
    parts, start = [], 0
    for stop in (*cuts, len(NEXT_IDS)):
        chunk = Chunk(NEXT_IDS[start:stop], start, list(table))
        parts.append(made.run([chunk], states[start:stop]))
        start = stop
    return torch.cat(parts)


def test_in_float32_its_states_and_logits_are_those_of_the_cpu(opened):
    states = randn(len(NEXT_IDS), HIDDEN, dtype=FP32)
    on_device, on_host = head(opened, FP32), head(opened, FP32, "cpu")
    got, want = run(on_device, states, (9, 10)), run(on_host, states.cpu(), (9, 10))
    assert got.device == DEVICE
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-4)
    logits = on_device.logits(got)
    assert logits.device.type == "cpu"
    torch.testing.assert_close(logits, on_host.logits(want), rtol=0, atol=1e-3)


def test_its_rows_have_the_same_bits_however_they_come_and_beside_whom(opened):
    states = randn(len(NEXT_IDS), HIDDEN)
    made = head(opened, BF16)
    whole = run(made, states, ())
    assert bits_equal(run(made, states, (4, 5, 6, 13)), whole)
    made._layers.graphs = DecodeGraphs(
        records=False
    )  # as on a GPU: single rows in the buffers of a graph
    run(made, states, (19,), (5, 2))
    mine = Chunk(NEXT_IDS[19:20], 19, [5, 2])
    other = Chunk(NEXT_IDS[:1], 0, [4])
    both = made.run([other, mine], torch.cat([states[:1], states[19:20]]))
    assert bits_equal(both, torch.cat([whole[:1], whole[19:20]]))
    assert len(made._layers.graphs) == 1


def test_a_head_of_fp8_weights_keeps_them(tmp_path):
    quantised = random_head(tmp_path, SOURCE.config, quantization={"qformat_weight": "fp8_e4m3"})
    made = head(quantised, BF16)
    assert made._fuse.weight.held is WeightFormat.FP8
    states = randn(len(NEXT_IDS), HIDDEN)
    want = run(head(quantised, FP32, "cpu"), states.cpu().float(), ())
    got = run(made, states, ()).float().cpu()
    assert torch.nn.functional.cosine_similarity(got, want).min() > 0.99


def test_rows_of_a_verified_chunk_have_the_bits_of_single_steps():
    """At any length of a chunk, with neighbours or without."""
    ids = prompt("len70")[:24]
    model = runner(SOURCE, BF16)
    run_prompt(model, ids[:14])
    blocks, others = blocks_for(len(ids)), blocks_for(len(ids), 9)
    run_prompt(model, ids[:14], first_block=9)
    assert_rows_are_of_single_steps(model, ids, 14, (2, 3, 1, 4), blocks, others)
