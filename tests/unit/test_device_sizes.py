"""Bytes on a GPU by formula: those of the tensors that are made, and no less than a step makes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.adapters import one_of_each_kind, with_adapters, write_adapter, write_files
from helpers.device_tensors import LiveBytes, tensors_of
from helpers.triton_device import DEVICE_NAME
from helpers.triton_models import blocks_for, checkpoint, fixture_image, runner
from router.model.device_sizes import (
    StepLimits,
    address_tensors,
    dense_tensors,
    step_bytes,
    vision_tensors,
    vision_work_bytes,
)
from router.model.runner import SequenceChunk
from router.model.vision import VisionTower
from shards.adapters.adapter import open_adapter
from shards.adapters.sizes import adapter_tensors, largest_rank, ranks_in, ranks_of, table_tensors
from shards.kernels.device_sizes import allocated_bytes, expert_tensors, plain_bytes, times
from shards.kernels.formats import WeightFormat

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16, FP32 = torch.bfloat16, torch.float32
SOURCE = checkpoint()
CONFIG = SOURCE.config


def held_by(model):
    """Of the decoder and its experts."""
    decoder = model.decoder
    layers = decoder._layers
    of_gateway = (decoder._embed, decoder._head, layers.norm, layers.layers, layers.changes)
    return tensors_of(of_gateway), tensors_of(model.exchange.bank.layers)


# -- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "held", "kept"),
    [
        ("tiny-hf-bf16", BF16, WeightFormat.BF16, WeightFormat.BF16),
        ("tiny-hf-bf16", FP32, WeightFormat.BF16, WeightFormat.BF16),
        ("tiny-native-fp8", BF16, WeightFormat.BF16, WeightFormat.FP8),
        ("tiny-hf-bf16", BF16, WeightFormat.INT4, WeightFormat.INT4),
    ],
)
def test_weights_take_what_the_formula_says_tensor_by_tensor(name, dtype, held, kept):
    source, width = checkpoint(name), dtype.itemsize
    config = source.config
    of_gateway, of_experts = held_by(runner(source, dtype, held=held))
    dense = WeightFormat.FP8 if config.is_fp8 else WeightFormat.BF16
    assert of_gateway == dense_tensors(config, dense, width)
    expert = expert_tensors(config.hidden_size, config.expert_size, kept, width)
    layer = times(expert, config.num_experts) + address_tensors(config.num_experts)
    assert of_experts == times(layer, config.num_layers)


def test_the_vision_tower_takes_what_the_formula_says():
    tower = VisionTower(SOURCE, BF16, device=DEVICE_NAME)
    held = tensors_of(tower.rows._apply, tower.rows._norms)
    assert held == vision_tensors(CONFIG.vision, CONFIG.hidden_size, 2)


# -- adapters --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return one_of_each_kind(tmp_path_factory.mktemp("adapters"), CONFIG)


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_adapters_take_what_the_formula_says_tensor_by_tensor(adapters, dtype):
    model = runner(SOURCE, dtype)
    before = held_by(model)
    with_adapters(model, adapters.values())
    added = [after - known for after, known in zip(held_by(model), before, strict=True)]
    tables = table_tensors(CONFIG)
    want = [tables.dense, tables.routed]
    for adapter in adapters.values():
        own = adapter_tensors(ranks_of(adapter), CONFIG, dtype.itemsize)
        want = [known + part for known, part in zip(want, own, strict=True)]
    assert added == want
    for adapter in adapters.values():
        model.exchange.bank.drop_adapter(adapter.key)
        model.decoder.drop_adapter(adapter.key)
    left = [after - known for after, known in zip(held_by(model), before, strict=True)]
    assert left == [tables.dense, tables.routed]


def test_the_header_of_a_file_tells_the_ranks_that_opening_it_finds(tmp_path, adapters):
    for name, fields in (
        ("plain", {"rank": 5}),
        ("attention", {"routed": False}),
        ("pattern", {"rank": 4, "changes": {"rank_pattern": {"self_attn.o_proj": 4}}}),
    ):
        path = write_adapter(tmp_path / name, CONFIG, **fields)
        assert ranks_in(path, CONFIG) == ranks_of(open_adapter(path, CONFIG))
    assert len(ranks_of(adapters["all"])) > len(ranks_of(adapters["routed"]))


def test_the_header_of_stacked_experts_tells_them_too(tmp_path):
    rank, experts = 2, CONFIG.num_experts
    hidden, width = CONFIG.hidden_size, CONFIG.expert_size
    tensors = {}
    for suffix, num_in, num_out in ((".base_layer", hidden, 2 * width), ("", width, hidden)):
        module = f"base_model.model.model.language_model.layers.1.mlp.experts{suffix}"
        tensors[f"{module}.lora_A.weight"] = torch.ones(rank * experts, num_in)
        tensors[f"{module}.lora_B.weight"] = torch.ones(num_out, rank * experts)
    path = write_files(tmp_path / "stacked", tensors, {"r": rank, "lora_alpha": 4})
    found = ranks_in(path, CONFIG)
    assert found == ranks_of(open_adapter(path, CONFIG))
    assert len(found) == 3 * experts


# -- steps -----------------------------------------------------------------------------------


def most_of_step(model, chunks):
    with LiveBytes() as live:
        model.run(0, chunks)
    assert live.most > 0
    return live.most


def prompts(count, tokens, adapter=0, logits=1):
    ids = np.random.default_rng(1).integers(20, CONFIG.vocab_size, tokens).tolist()
    each = len(blocks_for(tokens))
    return [
        SequenceChunk(ids, 0, tokens, blocks_for(tokens, 1 + i * each), logits, adapter=adapter)
        for i in range(count)
    ]


@pytest.mark.parametrize(("dtype", "logits"), [(BF16, 20), (FP32, 1)])
def test_no_step_takes_more_than_is_set_aside_and_not_far_less(dtype, logits):
    model = runner(SOURCE, dtype)
    most = most_of_step(model, prompts(2, 20, logits=logits))
    planned = step_bytes(CONFIG, dtype.itemsize, StepLimits(40, 2, 20))
    assert most < planned < 6 * most


def test_no_step_with_adapters_takes_more_than_is_set_aside(adapters):
    adapter = adapters["all"]
    model = with_adapters(runner(SOURCE, BF16), [adapter])
    most = most_of_step(model, prompts(2, 20, adapter.key, 20))
    rank = largest_rank([ranks_of(adapter)])
    assert most < step_bytes(CONFIG, 2, StepLimits(40, 2, 20), rank) < 6 * most


def test_no_decode_step_takes_more_than_is_set_aside():
    model, count, length = runner(SOURCE, BF16), 4, 200
    chunks = [c._replace(start=length - 1, num_tokens=1) for c in prompts(count, length)]
    most = most_of_step(model, chunks)
    assert most < step_bytes(CONFIG, 2, StepLimits(count, count, length)) < 6 * most


def test_no_image_takes_more_than_is_set_aside():
    tower, image = VisionTower(SOURCE, BF16, device=DEVICE_NAME), fixture_image()
    tower.encode(image.pixels)
    with LiveBytes() as live:
        tower.encode(image.pixels)
    patches = tower.num_patches(image.pixels)
    one = replace(CONFIG.vision, image_size=CONFIG.vision.patch_size)
    planned = vision_work_bytes(one, CONFIG.hidden_size, 2, patches)
    assert live.most < planned < 6 * live.most


# -- the allocator ---------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 1 << 28), st.integers(1, 9), max_size=6))
def test_the_allocator_takes_no_less_than_the_tensors_and_at_most_half_as_much_more(sizes):
    plain = plain_bytes(sizes)
    spare = 512 * sum(sizes.values())
    assert plain <= allocated_bytes(sizes) <= plain * 3 / 2 + spare


def test_two_of_eight_mebibytes_share_a_segment_of_twenty():
    """An expert's down of Mistral Small 4 in fp8; its gate and up, of 16 MiB, lose nothing."""
    mib = 1 << 20
    assert allocated_bytes(Counter({8 * mib: 2})) == 20 * mib
    assert allocated_bytes(Counter({16 * mib: 3, mib: 4})) == 52 * mib
    assert allocated_bytes(Counter({10 * mib + 1: 1})) == 12 * mib
