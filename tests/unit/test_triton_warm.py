"""After a gateway's or a shard's start no launch is the first of its kind: nothing is compiled.

Launches are told apart as Triton does it, and not computed (``helpers.triton_keys``). Every product
takes every tile, as on a GPU whose tiles were all found to give the same bits.
"""

import numpy as np
import pytest
import torch

from helpers.adapters import opened, with_adapters
from helpers.eagle_heads import random_head
from helpers.gateway_process import gateway_settings
from helpers.triton_device import DEVICE_NAME, HAS_GPU

if HAS_GPU:
    pytest.skip("counted where nothing is compiled", allow_module_level=True)

from helpers.triton_keys import LaunchKeys
from helpers.triton_models import BLOCK_SIZE, bank, checkpoint, runner
from router.engine.scheduler_config import SchedulerConfig
from router.engine.speculation.settings import SpeculationSettings
from router.gateway.warm import warm_gateway
from router.model.batch import Chunk
from router.model.eagle import EagleHead
from router.model.runner import SequenceChunk
from router.model.triton_decode import DecodeGraphs
from router.model.vision import EncodeBatch
from router.model.warm import AbsentExperts
from router.model.warm_steps import StepLimits, decodes, prompts
from shards.kernels.gpu import experts, linear
from shards.warm import warm_adapted

BF16 = torch.bfloat16
SCHEDULER = SchedulerConfig(
    max_num_seqs=12, max_batched_tokens=300, max_chunk_tokens=128, max_model_len=2048
)
GUESSES = 4


def all_of(key, tiles, compute):
    """Every tile, after the probes that ``verified`` makes."""
    for tile in tiles:
        compute(tile)
    return tuple(tiles)


@pytest.fixture
def keys(monkeypatch):
    """Every product with its three tiles; nothing is computed."""
    monkeypatch.setattr(linear, "verified", all_of)
    monkeypatch.setattr(experts, "verified", all_of)
    with LaunchKeys().listening(monkeypatch) as found:
        yield found


def random_lengths(rng):
    """Of a step's chunks: single tokens, guesses to verify, parts of prompts, or all of them."""
    kinds = rng.permutation(3)[: rng.integers(1, 4)]
    left, lengths = SCHEDULER.max_batched_tokens, []
    for _ in range(rng.integers(1, SCHEDULER.max_num_seqs + 1)):
        most = SCHEDULER.max_chunk_tokens
        length = int(
            [1, rng.integers(1, GUESSES + 2), rng.integers(1, most + 1)][rng.choice(kinds)]
        )
        if length <= left:
            lengths.append(length)
            left -= length
    return lengths


def random_step(rng, adapters):
    chunks = []
    for length in random_lengths(rng):
        start = int(rng.integers(0, SCHEDULER.max_model_len - length))
        wanted = int(rng.choice([0, 1, length]))
        adapter = int(rng.choice(np.array(adapters, dtype=np.uint64)))
        blocks = [0] * (SCHEDULER.max_model_len // BLOCK_SIZE)
        chunks.append(
            SequenceChunk([0] * (start + length), start, length, blocks, wanted, adapter=adapter)
        )
    return chunks


def warmed(model, head, root, keys, speculative="eagle"):
    settings = gateway_settings(
        device=DEVICE_NAME,
        adapters_root=root,
        speculation=SpeculationSettings(speculative=speculative, num_draft_tokens=GUESSES),
    )
    told = []
    tower = None if model.images is None else model.images._tower
    warm_gateway(settings, SCHEDULER, model, head, tower, lambda *at: told.append(at))
    assert {what for what, done, of in told if done == of} >= {"steps", "adapter steps"}
    return set(keys.seen)


@pytest.mark.parametrize("name", ["tiny-hf-bf16", "tiny-native-fp8"])
def test_a_gateway_that_was_warmed_launches_nothing_new(keys, tmp_path, name):
    source, rng = checkpoint(name), np.random.default_rng(1)
    model = runner(source, BF16, sees=True)
    opened_head = random_head(tmp_path / "head", source.config)
    head = EagleHead(opened_head, model.decoder, 64, BLOCK_SIZE, BF16, 1, DEVICE_NAME)
    for layers in (model.decoder._layers, head._layers):
        layers.graphs = DecodeGraphs(records=False)  # the launches that a capture records
    before = warmed(model, head, tmp_path, keys)
    assert {key[0] for key in before} >= {"attend_prompts", "attend_segments", "reduce", "expand"}
    made = [
        opened(tmp_path / "one", source.config, seed=1),
        opened(tmp_path / "two", source.config, seed=2, rank=40, routed=False),
    ]
    with_adapters(model, made)
    for index in range(120):
        model.run(0, random_step(rng, [0, *(a.key for a in made)] if index % 2 else [0]))
    hidden = source.config.hidden_size
    for _ in range(40):
        chunks = [Chunk([0] * n, 5, [0] * 64) for n in random_lengths(rng)]
        states = torch.zeros((sum(len(c.token_ids) for c in chunks), hidden), dtype=BF16)
        out = head.run(chunks, states)
        head.logits(out[: rng.integers(1, len(out) + 1)])
    tower = model.images._tower
    cell = tower.rows.config.patch_size * tower.rows.config.spatial_merge_size
    most = tower.rows.config.image_size // cell
    for count in (1, 1, 1, 3, 7):
        sides = rng.integers(1, most + 1, (count, 2)) * cell
        images = [np.zeros((3, *map(int, side)), dtype=np.float32) for side in sides]
        batch = EncodeBatch(tower, images)
        while batch.advance():
            pass
    assert set(keys.seen) - before == set()


def test_a_gateway_whose_experts_are_elsewhere_launches_nothing_new(keys, tmp_path):
    source, rng = checkpoint(), np.random.default_rng(2)
    model = runner(source, BF16, experts=AbsentExperts())
    before = warmed(model, None, tmp_path, keys, "ngram")
    made = opened(tmp_path / "one", source.config, seed=1)
    model.decoder.add_adapter(made)
    for index in range(60):
        model.run(0, random_step(rng, [0, made.key] if index % 2 else [0]))
    assert set(keys.seen) - before == set()


def test_a_shard_that_was_warmed_launches_nothing_new(keys, tmp_path):
    source, rng = checkpoint(), np.random.default_rng(3)
    of = bank(source, BF16)
    warm_adapted(of)
    assert not of.adapters
    before = set(keys.seen)
    adapter = opened(tmp_path / "one", source.config, seed=1)
    of.add_adapter(adapter)
    config = source.config
    for _ in range(60):
        num_tokens = int(rng.integers(1, 200))
        chosen = np.sort(rng.permutation(config.num_experts)[: rng.integers(1, 5)])
        counts = rng.integers(1, num_tokens + 1, len(chosen))
        token = np.concatenate([np.sort(rng.permutation(num_tokens)[:n]) for n in counts])
        x = torch.zeros((num_tokens, config.hidden_size), dtype=BF16)
        own = rng.choice(np.array([0, adapter.key], dtype=np.uint64), num_tokens)
        layer = int(rng.integers(config.num_layers))
        of.run(layer, x, chosen, counts, token, own if own.any() else None)
    assert set(keys.seen) - before == set()


def test_graphs_are_recorded_for_every_shape_that_limits_allow_largest_first():
    steps = decodes(StepLimits(max_tokens=2048, max_alone=20, max_model_len=3000), 3000)
    sizes, starts = {s.num_chunks for s in steps}, sorted({s.start for s in steps})
    assert sizes == {1, 2, 4, 8, 16, 24}
    assert starts == [511, 2047, 2999]
    work = [s.num_chunks * s.start for s in steps]
    assert steps[0].num_chunks == 24
    assert max(work) == work[0]


def test_prompts_are_of_every_power_of_two_up_to_the_longest():
    of = prompts(StepLimits(max_tokens=300, max_alone=20, max_model_len=3000))
    assert [step.num_tokens for step in of] == [16, 32, 64, 128, 256, 300]
