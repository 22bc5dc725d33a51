"""Reference and serving mode give the values that the fixtures expect."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.fixture_models import (
    EXPECTED_SET,
    TEXT_CASES,
    checkpoint,
    correlation,
    expected,
    fixture_image,
    greedy,
    images_of,
    inputs,
    prompt,
    run_prompt,
    runner,
)
from router.model.images import image_token_positions
from router.model.kv_cache import PagedLatentCache
from router.model.reference import ReferenceModel
from router.model.rope import softmax_scale
from router.model.runner import ReferenceRunner
from router.model.vision import VisionTower
from shards.checkpoint.config import ModelConfig
from shards.kernels.row_invariant import on_threads
from shards.kernels.threads import KernelThreads

TOLERANCE = 2e-4
CASES = (*TEXT_CASES, "image")


@pytest.fixture(params=EXPECTED_SET)
def name(request):
    return request.param


def reference_output(name, case, form):
    source = checkpoint(name)
    rows = []
    if case == "image":
        features = VisionTower(source, torch.float32).encode(fixture_image().pixels)
        positions, places = image_token_positions(fixture_image())
        rows = [(int(p), features[f]) for p, f in zip(positions, places, strict=True)]
    return ReferenceModel(source, form).forward(prompt(case), rows)


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
@pytest.mark.parametrize("case", CASES)
def test_reference_mode_gives_the_expected_logits_hidden_states_and_gate_choices(name, case, form):
    output, want = reference_output(name, case, form), expected(name)
    stored = len(want[f"{case}.logits"])
    assert (output.logits[-stored:] - want[f"{case}.logits"]).abs().max() < TOLERANCE
    assert (output.hidden[-stored:] - want[f"{case}.hidden"]).abs().max() < TOLERANCE
    assert torch.equal(output.gate_ids[:, -stored:].int(), want[f"{case}.gate_ids"])
    weights = output.gate_weights[:, -stored:]
    assert (weights - want[f"{case}.gate_weights"]).abs().max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_reference_runner_continues_greedily_as_expected(name, case):
    source = checkpoint(name)
    model = ReferenceRunner(ReferenceModel(source), VisionTower(source, torch.float32))
    want = expected(name)[f"{case}.greedy_ids"].tolist()[:6]
    assert greedy(model, prompt(case), 6, images_of(case)) == want


@pytest.mark.parametrize("case", CASES)
def test_paged_model_in_float32_gives_the_expected_logits_and_greedy_ids(name, case):
    model = runner(checkpoint(name), torch.float32)
    want = expected(name)[f"{case}.logits"]
    got = run_prompt(model, prompt(case), images_of(case), chunk=37)
    assert np.abs(got[-len(want) :] - want.numpy()).max() < TOLERANCE
    ids = expected(name)[f"{case}.greedy_ids"].tolist()
    assert greedy(model, prompt(case), len(ids), images_of(case)) == ids


@pytest.mark.parametrize("case", [c for c in CASES if c != "len1"])
def test_serving_mode_correlates_with_the_expected_logits(name, case):
    model = runner(checkpoint(name), torch.bfloat16)
    want = expected(name)[f"{case}.logits"]
    got = run_prompt(model, prompt(case), images_of(case))[-len(want) :]
    assert correlation(got, want) > 0.98
    top2 = want.topk(2).values
    clear = (top2[:, 0] - top2[:, 1] > 0.3).numpy()
    assert np.array_equal(got.argmax(-1)[clear], want.argmax(-1).numpy()[clear])


def test_chunk_size_and_micro_batches_change_no_bit():
    source = checkpoint()
    ids = prompt("len130")
    whole = run_prompt(runner(source, torch.bfloat16), ids)
    for chunk in (1, 7, 64):
        cut = run_prompt(runner(source, torch.bfloat16), ids, chunk=chunk)
        assert np.array_equal(whole.view(np.int32), cut.view(np.int32)), chunk


@pytest.mark.parametrize(
    "mistake",
    ["mscale_squared", "no_temperature", "no_yarn", "no_renormalisation", "half_split_rope"],
)
def test_the_bar_tells_common_mistakes_apart(mistake):
    """The fixtures' control values differ from the right ones by far more than the tolerance."""
    path = "tiny-controls.safetensors"
    from helpers.fixture_models import FIXTURES

    controls = load_file(FIXTURES / "expected" / path)
    (wrong,) = [v for k, v in controls.items() if mistake in k]
    right = reference_output("tiny-hf-bf16", "len130", "expanded").logits[-1]
    assert (wrong.reshape(-1) - right).abs().max() > 10 * TOLERANCE


def test_softmax_scale_follows_the_apply_scale_flag():
    config = checkpoint().config
    assert softmax_scale(config) == config.qk_head_dim**-0.5
    fields = {f: getattr(config, f) for f in ModelConfig.__dataclass_fields__}
    scaled = ModelConfig(**{**fields, "yarn_apply_scale": True, "yarn_factor": 128.0})
    assert softmax_scale(scaled) == pytest.approx(config.qk_head_dim**-0.5 * 2.205828, rel=1e-6)


def test_vision_features_depend_on_the_image_alone():
    tower = VisionTower(checkpoint(), torch.bfloat16)
    first = tower.encode(inputs()["image.pixels.0"].numpy())
    tower.encode(np.zeros((3, 28, 28), np.float32))
    assert torch.equal(first, tower.encode(inputs()["image.pixels.0"].numpy()))


@pytest.mark.parametrize("threads", [2, 3])
def test_vision_features_do_not_depend_on_the_number_of_threads(threads):
    pixels = np.random.default_rng(0).standard_normal((3, 28 * 11, 28 * 10)).astype(np.float32)
    source = checkpoint()
    one = VisionTower(source, torch.bfloat16).encode(pixels)
    assert len(one) == 110
    many = VisionTower(source, torch.bfloat16, KernelThreads(threads))
    got = on_threads(threads, lambda: many.encode(pixels))
    assert torch.equal(got, one)


def test_a_latent_that_is_no_number_is_not_left_behind_for_the_next_owner():
    source = checkpoint()
    cache = PagedLatentCache(source.config, 4, 16, torch.bfloat16)
    bad = torch.full((1, source.config.latent_dim), float("nan"))
    cache.write(0, torch.tensor([16]), bad)
    assert torch.isfinite(cache.blocks(0, torch.tensor([1]))).all()
