"""Images by the GPU's kernels: the features of the CPU's tower, each by its own image alone."""

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, DEVICE_NAME, bits_equal, randn, worst
from helpers.triton_models import (
    checkpoint,
    correlation,
    expected,
    fixture_image,
    prompt,
    run_prompt,
    runner,
)
from router.model.triton_vision import TritonVision
from router.model.vision import EncodeBatch, VisionTower
from shards.kernels.gpu import images

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16, FP32 = torch.bfloat16, torch.float32
SHAPES = [(1, 1), (5, 4), (2, 3)]  # in tokens; 80 patches are more than one block of keys


def pixels(rows, columns, seed=0):
    """Of ``rows`` x ``columns`` tokens of 28 x 28 pixels."""
    shape = (3, rows * 28, columns * 28)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tower(dtype, device=DEVICE_NAME):
    return VisionTower(checkpoint(), dtype, device=device)


def run(batch):
    while batch.advance():
        pass
    return batch.features


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize(("count", "patches"), [(1, 1), (70, 130)])
def test_patches_attend_to_all_patches_as_torch_does(dtype, count, patches):
    q, keys, values = (
        randn(n, 3, 24, seed=seed, dtype=dtype) for seed, n in enumerate((count, patches, patches))
    )
    near = {BF16: 0.03, FP32: 1e-5}[dtype]
    assert worst(images.attend(q, keys, values), images.reference(q, keys, values)) < near


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_a_patch_attends_with_the_same_bits_whatever_others_ask(dtype):
    q, keys, values = (
        randn(n, 2, 16, seed=seed, dtype=dtype) for seed, n in enumerate((90, 100, 100))
    )
    whole = images.attend(q, keys, values)
    for rows in ([0], [89, 3], list(range(5, 80))):
        assert bits_equal(images.attend(q[rows], keys, values), whole[rows])


def test_features_in_float32_are_those_of_the_cpu():
    on_device, on_host = tower(FP32), tower(FP32, "cpu")
    for seed, shape in enumerate(SHAPES):
        values = pixels(*shape, seed)
        got = on_device.encode(values)
        assert got.device == DEVICE
        assert (got.cpu() - on_host.encode(values)).abs().max() < 2e-5


def test_features_in_bf16_are_near_those_of_the_cpu_in_float32():
    values = pixels(5, 4)
    assert correlation(tower(BF16).encode(values).cpu(), tower(FP32, "cpu").encode(values)) > 0.999


def test_features_depend_on_no_other_image_and_no_cut_of_the_work(monkeypatch):
    made = tower(BF16)
    values = [pixels(*shape, seed) for seed, shape in enumerate(SHAPES)]
    alone = [made.encode(image) for image in values]
    for order in ((0, 1, 2), (2, 1, 1)):
        together = run(EncodeBatch(made, [values[i] for i in order]))
        for number, features in zip(order, together, strict=True):
            assert bits_equal(features, alone[number])
    monkeypatch.setattr(TritonVision, "block_rows", 24)
    cut = EncodeBatch(made, values)
    assert len(cut._slices) > 3
    for features, want in zip(run(cut), alone, strict=True):
        assert bits_equal(features, want)


@pytest.mark.parametrize("name", ["tiny-hf-bf16", "tiny-native-fp8"])
def test_a_prompt_with_an_image_has_the_expected_logits(name):
    want = expected(name)["image.logits"].numpy()
    model = runner(checkpoint(name), FP32, sees=True)
    got = run_prompt(model, prompt("image"), (fixture_image(),), chunk=37)
    assert np.abs(got[-len(want) :] - want).max() < 2e-4
    blind = run_prompt(runner(checkpoint(name), FP32), prompt("image"), chunk=37)
    assert np.abs(blind[-len(want) :] - want).max() > 0.01  # the image does something


def test_in_bf16_a_prompt_with_an_image_is_near_the_expected_and_its_features_stay_there():
    model = runner(checkpoint(), BF16, sees=True)
    want = expected("tiny-hf-bf16")["image.logits"]
    got = run_prompt(model, prompt("image"), (fixture_image(),))[-len(want) :]
    assert correlation(got, want) > 0.98
    assert model.images.features_of(fixture_image()).device == DEVICE
