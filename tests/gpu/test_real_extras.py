"""Images, adapters and the Eagle head at Mistral Small 4's dimensions, on a GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.adapters import opened, with_adapters
from helpers.eagle_heads import random_head
from helpers.triton_device import DEVICE, DEVICE_NAME, HAS_GPU, bits_equal, randn, worst
from helpers.triton_models import BLOCK_SIZE, blocks_for, correlation, run_prompt, runner
from router.model.batch import Chunk
from router.model.eagle import EagleHead
from router.model.runner import SequenceChunk
from router.model.vision import EncodeBatch, VisionTower
from shards.adapters.low_rank import LowRank
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint
from shards.kernels.gpu import images, low_rank
from shards.kernels.gpu.grouped import host_layout
from shards.kernels.gpu.low_rank import ROWS, ChangeTable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device"),
]
BF16, FP32 = torch.bfloat16, torch.float32
REAL = replace(preset("full-layer", has_vision=True), num_experts=8, num_layers=2)


@pytest.fixture(scope="module")
def source():
    return SyntheticCheckpoint(REAL, 7, DEVICE)


@pytest.mark.parametrize("num_patches", [400, 12100])
def test_patches_of_the_largest_image_attend_as_torch_does_each_by_itself(num_patches):
    q, keys, values = (randn(num_patches, 16, 64, seed=seed) for seed in range(3))
    got = images.attend(q, keys, values)
    some = [0, 63, 64, num_patches - 1]
    assert worst(got[some], images.reference(q[some], keys, values)) < 0.05
    assert bits_equal(images.attend(q[some], keys, values), got[some])


def test_an_image_has_the_same_features_alone_and_in_a_batch_near_those_in_float32(source):
    rng = np.random.default_rng(0)
    pixels = [rng.standard_normal((3, 28 * n, 28 * 20)).astype(np.float32) for n in (20, 13, 55)]
    tower = VisionTower(source, BF16, device=DEVICE_NAME)
    alone = [tower.encode(image) for image in pixels]
    batch = EncodeBatch(tower, pixels)
    while batch.advance():
        pass
    for features, want in zip(batch.features, alone, strict=True):
        assert bits_equal(features, want)
    wide = VisionTower(source, FP32, device=DEVICE_NAME).encode(pixels[0])
    assert correlation(alone[0].cpu(), wide.cpu()) > 0.99


@pytest.mark.parametrize("rank", [8, 64, 256])
@pytest.mark.parametrize("num_rows", [1, 64, 2048])
def test_a_change_of_a_projection_is_that_of_torch_and_touches_its_rows_alone(rank, num_rows):
    table = ChangeTable(64, BF16, DEVICE)
    down, up = randn(rank, 4096, scale=0.02), randn(4096, rank, seed=1, scale=0.1)
    change = LowRank(down.cpu(), up.cpu(), 0.5)
    table.put_low_rank(3, change)
    rows = np.arange(0, num_rows, 2)
    laid = host_layout(np.array([3]), np.array([len(rows)]), rows, ROWS, DEVICE)
    laid = laid._replace(row_out=laid.row_token)
    x, before = randn(num_rows, 4096, seed=2), randn(num_rows, 4096, seed=3)
    y = before.clone()
    table.add(y[:, None], x[:, None], laid)
    want = before[::2].float() + low_rank.reference(x[::2], change)
    assert worst(y[::2], want) < 0.02
    assert bits_equal(y[1::2], before[1::2])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [
        opened(root / str(seed), REAL, seed=seed, rank=16, size=0.02, **which)
        for seed, which in ((1, {}), (2, {"routed": False}))
    ]


def decoded(model, ids, count, keys, order):
    """Logits of the same prompt with several adapters, its last tokens decoded together."""
    start, rows = len(ids) - count, []
    tables = {key: blocks_for(len(ids), 1 + 40 * i) for i, key in enumerate(keys)}
    chunks = [SequenceChunk(ids, 0, start, tables[key], 0, adapter=key) for key in order]
    model.run(0, chunks)
    for at in range(start, len(ids)):
        chunks = [SequenceChunk(ids, at, 1, tables[key], 1, adapter=key) for key in order]
        rows.append(dict(zip(order, model.run(0, chunks), strict=True)))
    return {key: np.stack([row[key] for row in rows]) for key in order}


def test_rows_without_an_adapter_keep_their_bits_recorded_in_graphs_or_not(source, adapters):
    """Steps with adapters have graphs of their own."""
    model = with_adapters(runner(source, BF16, num_blocks=300), adapters)
    ids = np.random.default_rng(1).integers(0, 4096, 60).tolist()
    keys = [0, *(adapter.key for adapter in adapters)]
    alone = {key: decoded(model, ids, 6, keys, [key])[key] for key in keys}
    assert len(model.decoder._layers.graphs) >= 1
    together = decoded(model, ids, 6, keys, [keys[2], 0, keys[1]])
    for key in keys:
        assert together[key].tobytes() == alone[key].tobytes()
        if key:
            assert not np.array_equal(alone[key], alone[0])
    whole = run_prompt(model, ids, adapter=keys[1])[-6:]
    assert whole.tobytes() == alone[keys[1]].tobytes()


def test_a_head_of_the_real_dimensions_has_the_same_bits_in_chunks_and_row_by_row(source, tmp_path):
    opened_head = random_head(tmp_path, REAL, width=1024)
    model = runner(source, BF16)
    made = EagleHead(opened_head, model.decoder, 64, BLOCK_SIZE, BF16, 1, DEVICE_NAME)
    ids, states = list(range(100, 140)), randn(40, REAL.hidden_size)
    whole = made.run([Chunk(ids, 0, [1, 2, 3])], states)
    assert bool(whole.isfinite().all())
    made.run([Chunk(ids[:30], 0, [4, 5, 6])], states[:30])
    for at in range(30, 40):
        row = made.run([Chunk(ids[at : at + 1], at, [4, 5, 6])], states[at : at + 1])
        assert bits_equal(row, whole[at : at + 1])
