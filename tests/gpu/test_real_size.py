"""Kernels and a model of Mistral Small 4's dimensions, on a GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, DEVICE_NAME, HAS_GPU, bits_equal, randn, worst
from helpers.triton_models import blocks_for, correlation, run_prompt, runner
from router.model.runner import SequenceChunk
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint
from shards.kernels import segments as cut
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import attention, grouped, launch
from shards.kernels.gpu.attention import AttentionShape
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.linear import DeviceLinear, parts_for
from shards.kernels.gpu.linear import reference as linear_reference
from shards.kernels.gpu.linear import tiles_of as linear_tiles
from shards.kernels.gpu.weights import stacked, to_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device"),
]
REAL = preset("full-layer")
EXPERTS = 8  # of 128: 200 MiB, and every row count from 1 up is on some of them
BF16 = torch.bfloat16
SHAPE = AttentionShape(heads=32, nope=64, rope=64, latent=256, value=128)
HELD = (WeightFormat.BF16, WeightFormat.FP8, WeightFormat.INT8, WeightFormat.INT4)


@pytest.fixture(scope="module")
def source():
    return SyntheticCheckpoint(replace(REAL, num_experts=EXPERTS, num_layers=2), 7, DEVICE)


def experts_of(source, held):
    asked = WeightFormat.BF16 if held is WeightFormat.FP8 else held
    experts, pairs = TritonExperts(EXPERTS, BF16, asked, DEVICE), []
    for e in range(EXPERTS):
        stored = source.expert(0, e)
        parts = [
            w.kept_as(WeightFormat.BF16, BF16) if held is WeightFormat.FP8 else w.to(BF16)
            for w in (*stored.gate_up, stored.down)
        ]
        experts.add(e, *parts)
        both = to_device(stacked(parts[:2], BF16), asked, BF16, DEVICE)
        pairs.append((both, to_device(parts[2], asked, BF16, DEVICE)))
    return experts, pairs


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.label)
@pytest.mark.parametrize("num_tokens", [1, 16, 700, 4096])
def test_an_expert_layer_is_that_of_torch_and_every_row_by_itself(source, held, num_tokens):
    experts, pairs = experts_of(source, held)
    x = randn(num_tokens, REAL.hidden_size, seed=num_tokens)
    rng = np.random.default_rng(0)
    ids = np.array([np.sort(rng.permutation(EXPERTS)[:4]) for _ in range(num_tokens)])
    got = experts.run_all(x, ids)
    for e, (both, down) in enumerate(pairs):
        tokens, places = (torch.from_numpy(a[:64]) for a in np.nonzero(ids == e))
        if len(tokens):
            want = grouped.reference(x[tokens], both, down)
            assert worst(got[tokens, places], want) < 0.05
    for rows in ([0], [num_tokens - 1, 0], list(range(0, num_tokens, 3))):
        assert bits_equal(experts.run_all(x[rows], ids[rows]), got[rows])


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.label)
def test_the_tiles_of_all_row_counts_were_verified(source, held):
    """Else large steps would be slow: nothing but the defining tile would be left."""
    experts, _ = experts_of(source, held)
    assert len(experts._tiles) == len(grouped.tiles_of(experts._kind))


@pytest.mark.parametrize("name", ["q_a", "q_b", "o"])
@pytest.mark.parametrize("num_rows", [1, 17, 300, 4096])
def test_projections_are_those_of_torch_and_every_row_by_itself(source, name, num_rows):
    stored = source.dense(f"layers.0.{name}").kept_as(WeightFormat.BF16, BF16)
    weight = to_device(stored, WeightFormat.BF16, BF16, DEVICE)
    parts = parts_for(weight.num_outputs, weight.num_inputs)
    product = DeviceLinear(weight, BF16, parts)
    assert len(product._tiles) == len(linear_tiles(WeightFormat.FP8, parts))
    x = randn(num_rows, weight.num_inputs, seed=1)
    got = product(x)
    assert worst(got, linear_reference(x, weight)) < 0.05
    for rows in ([0], [num_rows - 1], list(range(0, num_rows, 7))):
        assert bits_equal(product(x[rows]), got[rows])
    few = product.parts(x[:17])
    joined = few[0].float()
    for part in few[1:]:
        joined = joined + part
    assert bits_equal(joined.to(BF16), got[:17])


@pytest.mark.parametrize("num_keys", [1, 511, 4096, 32768])
def test_decode_attention_is_that_of_torch_at_any_length(num_keys):
    num_blocks = -(-num_keys // 16)
    cache = randn(num_blocks + 1, 16, 320)
    table = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(0)) + 1
    q = randn(2, 32, 320, seed=1, scale=320**-0.5)
    tables = table.int()[None].expand(2, -1).contiguous().to(DEVICE)
    positions = torch.tensor([num_keys - 1, num_keys // 2], dtype=torch.int32, device=DEVICE)
    rows = torch.arange(2, dtype=torch.int32, device=DEVICE)
    out = torch.empty((2, 32, 256), dtype=BF16, device=DEVICE)
    segments = cut.segments_of(num_keys)
    attention.attend_decodes(q, cache, tables, rows, positions, segments, out, SHAPE)
    keys = cache[table.to(DEVICE)].flatten(0, 1)
    for i, position in enumerate(positions.tolist()):
        want = attention.reference(q[i], keys, position, SHAPE)
        assert worst(out[i], want) < 0.06


def test_a_token_is_the_same_bits_prefilled_and_decoded():
    num_keys, start = 1300, 1000
    num_blocks = -(-num_keys // 16)
    cache, q = randn(num_blocks + 1, 16, 320), randn(300, 32, 320, seed=1, scale=320**-0.5)
    tables = (torch.arange(num_blocks, dtype=torch.int32) + 1)[None].to(DEVICE)
    tiles = [[at, 2, start + at, 0] for at in range(0, 300, 2)]
    whole = torch.empty((300, 32, 256), dtype=BF16, device=DEVICE)
    attention.attend_prompts(
        q, cache, tables, torch.tensor(tiles, dtype=torch.int32, device=DEVICE), whole, SHAPE
    )
    count = 40
    rows = torch.arange(count, dtype=torch.int32, device=DEVICE) * 7
    out = torch.empty_like(whole)
    everyone = tables.expand(count, -1).contiguous()
    segments = cut.segments_of(num_keys)
    attention.attend_decodes(q, cache, everyone, rows, start + rows, segments, out, SHAPE)
    assert bits_equal(out[rows.long()], whole[rows.long()])


def decoded(model, ids, first_block, beside=()):
    """Logits of the last half of a prompt, decoded one by one beside other sequences."""
    blocks, half, rows = blocks_for(len(ids), first_block), len(ids) // 2, []
    model.run(0, [SequenceChunk(ids, 0, half, blocks, 0)])
    for at in range(half, len(ids)):
        chunks = [SequenceChunk(ids, at, 1, blocks, 1), *(b(at - half) for b in beside)]
        rows.append(model.run(0, chunks)[0])
    return np.stack(rows)


def test_a_sequence_has_the_same_bits_in_one_pass_decoded_by_graphs_and_among_others(source):
    model = runner(source, BF16, num_blocks=400)
    ids = np.random.default_rng(1).integers(0, 4096, 600).tolist()
    whole = run_prompt(model, ids)[300:]
    assert np.isfinite(whole).all()
    alone = decoded(model, ids, 50)
    assert len(model.decoder._layers.graphs) >= 1
    assert np.array_equal(alone.view(np.int32), whole.view(np.int32))
    other = np.random.default_rng(2).integers(0, 4096, 300).tolist()
    beside = [
        lambda i, n=n: SequenceChunk(other, i, 1, blocks_for(300, 100 + 20 * n), 1)
        for n in range(9)
    ]
    among = decoded(model, ids, 300, beside)
    assert np.array_equal(among.view(np.int32), whole.view(np.int32))


def test_experts_on_the_cpu_serve_a_gateway_on_the_gpu(source):
    from helpers.triton_models import bank
    from router.exchange.local import LocalExperts
    from router.model.device_experts import DeviceExperts

    # Random numbers of the CPU are others: both banks hold its experts.
    made = SyntheticCheckpoint(source.config, 7, torch.device("cpu"))
    ids = list(range(100, 140))
    away = DeviceExperts(LocalExperts(bank(made, BF16, device="cpu"), ["shard-0"]), DEVICE)
    here = LocalExperts(bank(made, BF16, device=DEVICE_NAME), ["shard-0"])
    got = run_prompt(runner(source, BF16, experts=away), ids)
    want = run_prompt(runner(source, BF16, experts=here), ids)
    assert correlation(got, want) > 0.99


def test_tiles_were_probed_on_this_device():
    assert not launch.is_interpreted()
