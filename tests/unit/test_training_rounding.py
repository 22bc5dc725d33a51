from dataclasses import replace

import torch

from cluster.demo.training.export import expert_weights
from cluster.demo.training.model import Layer, Model
from cluster.demo.training.rounding import rounded_to_fp8
from cluster.demo.training.sizes import DEMO
from shards.checkpoint.native_write import dequantise, quantise

CONFIG = replace(DEMO, num_layers=1, num_experts=8, vocab_size=300)


def stored(weight):
    return dequantise(quantise(weight.detach().clone()))


def test_weights_are_those_of_the_file_within_and_exact_again_after():
    torch.manual_seed(1)
    model = Model(CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    layer = model.layers[0]
    assert isinstance(layer, Layer)
    want = [[stored(w) for w in expert_weights(model)(0, i)] for i in range(8)]
    with rounded_to_fp8(model):
        for i in range(8):
            for got, wanted in zip(expert_weights(model)(0, i), want[i], strict=True):
                assert torch.equal(got, wanted)
        assert torch.equal(layer.q_b, stored(before["layers.0.q_b"]))
        for name in ("embed", "norm", "layers.0.gate", "layers.0.input_norm"):
            assert torch.equal(dict(model.named_parameters())[name], before[name])
        (layer.q_b.sum() * 2).backward()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
    assert torch.equal(layer.q_b.grad, torch.full_like(layer.q_b, 2.0))


def test_the_rounding_is_not_nothing():
    model = Model(CONFIG)
    exact = model.layers[0].o.detach().clone()
    with rounded_to_fp8(model):
        error = (model.layers[0].o - exact).abs().max() / exact.abs().max()
    assert 0.005 < error < 0.05
