"""Weights that are made when they are asked for."""

from dataclasses import replace

import pytest
import torch

from shards.checkpoint.names import dense_shapes
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint

CONFIG = replace(preset("tiny"), num_layers=2, num_experts=6)
CPU = torch.device("cpu")


def test_a_seed_names_its_weights_whatever_was_asked_for_before():
    first, again = (SyntheticCheckpoint(CONFIG, 3, CPU) for _ in range(2))
    want = first.expert(1, 4)
    again.dense("embed")
    got = again.expert(1, 4)
    for a, b in zip((*got.gate_up, got.down), (*want.gate_up, want.down), strict=True):
        assert torch.equal(a.data.view(torch.uint8), b.data.view(torch.uint8))
    other = SyntheticCheckpoint(CONFIG, 4, CPU)
    assert not torch.equal(other.dense("embed").data, first.dense("embed").data)
    assert other.fingerprint != first.fingerprint
    assert again.fingerprint == first.fingerprint


def test_every_weight_has_its_shape_and_the_formats_of_an_fp8_file():
    source = SyntheticCheckpoint(CONFIG, 0, CPU)
    for name, shape in dense_shapes(CONFIG).items():
        weight = source.dense(name)
        assert tuple(weight.data.shape) == shape
        is_fp8 = name.rsplit(".", 1)[-1] in ("q_a", "q_b", "kv_a", "kv_b", "o") or "shared" in name
        assert (weight.data.dtype == torch.float8_e4m3fn) is is_fp8
        assert (weight.scale is not None) is is_fp8
    with pytest.raises(KeyError):
        source.dense("layers.9.o")


def test_weights_keep_the_size_of_what_goes_through_them():
    source = SyntheticCheckpoint(CONFIG, 0, CPU)
    for weight in (source.dense("layers.0.q_a"), source.expert(0, 0).down):
        values = weight.to(torch.float32)
        assert 0.9 < float(values.std()) * values.shape[1] ** 0.5 < 1.1
