"""The whole text model by the GPU's kernels: what the fixtures expect, and bits by history alone.

Runs on a GPU if there is one; else in Triton's interpreter, which proves arithmetic, not speed.
"""

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, HAS_GPU
from helpers.triton_models import (
    EXPECTED_SET,
    bank,
    blocks_for,
    checkpoint,
    correlation,
    expected,
    greedy,
    prompt,
    run_prompt,
    runner,
)
from router.model.device_experts import DeviceExperts
from router.model.runner import SequenceChunk
from router.model.triton_decode import DecodeGraphs, graph_shape
from shards.kernels.formats import WeightFormat

# Rows of padding tokens hold whatever was in memory; the interpreter's numpy may say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16, FP32 = torch.bfloat16, torch.float32
# The interpreter takes seconds for a step: there the shortest prompts only.
CASES = ("len1", "len7", "len70", "len130") if HAS_GPU else ("len7", "len70")


@pytest.fixture(params=EXPECTED_SET)
def name(request):
    return request.param


def bits(logits):
    return logits.view(np.int32)


@pytest.mark.parametrize("case", CASES)
def test_in_float32_the_model_gives_the_expected_logits(name, case):
    want = expected(name)[f"{case}.logits"].numpy()
    got = run_prompt(runner(checkpoint(name), FP32), prompt(case), chunk=37)
    assert np.abs(got[-len(want) :] - want).max() < 2e-4


def test_in_float32_decoding_continues_as_expected(name):
    want = expected(name)["len7.greedy_ids"].tolist()[: None if HAS_GPU else 3]
    assert greedy(runner(checkpoint(name), FP32), prompt("len7"), len(want)) == want


@pytest.mark.parametrize("case", CASES)
def test_in_bf16_the_logits_correlate_with_the_expected_ones(name, case):
    want = expected(name)[f"{case}.logits"]
    got = run_prompt(runner(checkpoint(name), BF16), prompt(case))[-len(want) :]
    assert correlation(got, want) > 0.98
    top2 = want.topk(2).values
    clear = (top2[:, 0] - top2[:, 1] > 0.3).numpy()
    assert np.array_equal(got.argmax(-1)[clear], want.argmax(-1).numpy()[clear])


@pytest.mark.parametrize("held", [WeightFormat.INT8, WeightFormat.INT4])
def test_quantised_experts_give_nearly_the_same_logits(held):
    got = run_prompt(runner(checkpoint(), BF16, held=held), prompt("len7"))
    want = run_prompt(runner(checkpoint(), BF16), prompt("len7"))
    assert not np.array_equal(got, want)
    assert correlation(got, want) > {WeightFormat.INT8: 0.999, WeightFormat.INT4: 0.95}[held]


def test_chunks_and_neighbours_change_no_bit():
    """In one pass; cut; one by one beside another sequence that is decoded or prefilled."""
    source, ids, other = checkpoint("tiny-native-fp8"), prompt("len7"), prompt("len70")
    whole = run_prompt(runner(source, BF16), ids)
    cut = run_prompt(runner(source, BF16), ids, chunk=3)
    assert np.array_equal(bits(cut), bits(whole))
    model = runner(source, BF16)
    blocks, others = blocks_for(len(ids)), blocks_for(len(other), 20)
    for at in range(len(ids)):
        mine = SequenceChunk(ids, at, 1, blocks, 1)
        count = 1 if at % 2 else 9
        beside = SequenceChunk(other, 9 * at, count, others, 1)
        got = model.run(0, [beside, mine] if at % 3 else [mine, beside])
        assert np.array_equal(bits(got[1 if at % 3 else 0]), bits(whole[at]))


def test_experts_elsewhere_give_the_bits_of_experts_on_the_device():
    """Layer by layer through host memory, as over a link; in one and in two micro-batches."""
    from router.exchange.local import LocalExperts

    source, ids = checkpoint("tiny-hf-fp8"), prompt("len7")
    whole = run_prompt(runner(source, BF16), ids)
    for micro_batches in (1, 2):
        away = DeviceExperts(LocalExperts(bank(source, BF16), ["shard-0"]), DEVICE)
        model = runner(source, BF16, experts=away, micro_batches=micro_batches)
        blocks = blocks_for(len(ids)), blocks_for(len(ids), 9)
        got = model.run(0, [SequenceChunk(ids, 0, len(ids), b, len(ids)) for b in blocks])
        assert np.array_equal(bits(got), bits(np.concatenate([whole, whole])))


def test_experts_on_the_cpu_serve_a_gateway_on_the_device():
    """A mixed cluster in one process: the arithmetic of two families, near the expected."""
    from router.exchange.local import LocalExperts

    source, ids = checkpoint(), prompt("len7")
    on_host = LocalExperts(bank(source, BF16, device="cpu"), ["shard-0"])
    got = run_prompt(runner(source, BF16, experts=DeviceExperts(on_host, DEVICE)), ids)
    assert correlation(got, expected("tiny-hf-bf16")["len7.logits"]) > 0.98


def test_the_cache_and_the_weights_are_on_the_device():
    model = runner(checkpoint("tiny-native-fp8"), BF16)
    assert model.cache.layer(0).device == DEVICE
    first = model.decoder._layers.layers[0]
    assert first.q_b.weight.held is WeightFormat.FP8
    assert first.q_b.weight.data.device == DEVICE


def test_a_decode_step_in_a_graphs_buffers_has_the_bits_of_one_without():
    """Three sequences of other lengths in buffers for four; a second step has only two of them."""
    source, ids, other = checkpoint("tiny-native-fp8"), prompt("len7"), prompt("len70")[:20]
    plain, recorded = (runner(source, BF16) for _ in range(2))
    plain.decoder._layers.graphs = None
    recorded.decoder._layers.graphs = graphs = DecodeGraphs(records=False)
    tables = [blocks_for(40, 1 + 4 * i) for i in range(3)]
    prompts = (ids, other, ids[:3])
    fill = [SequenceChunk(p, 0, len(p), t, 0) for p, t in zip(prompts, tables, strict=True)]
    ones = [SequenceChunk([*p, 5], len(p), 1, t, 1) for p, t in zip(prompts, tables, strict=True)]
    twos = [
        SequenceChunk([*p, 5, 9], len(p) + 1, 1, t, 1) for p, t in zip(prompts, tables, strict=True)
    ]
    for step in (fill, ones, [twos[2], twos[0]]):
        got, want = (model.run(0, step) for model in (recorded, plain))
        assert np.array_equal(bits(got), bits(want))
    assert len(graphs) == 2  # for four tokens, and for two; the prompts had none


def test_a_step_takes_the_smallest_graph_that_holds_it():
    assert graph_shape(1, 1) == (1, 4)  # of 512 keys
    assert graph_shape(3, 5) == (4, 16)  # of 2,048
    assert graph_shape(256, 76) == (256, 76)  # of 32k
    assert graph_shape(257, 1) is None
    assert graph_shape(256, 77) is None  # too many partial results
    assert graph_shape(64, 77) == (64, 268)  # of 128k
