"""The vision tower in slices and batches: the same bits as alone, and the values of a plain one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from galerne.errors import InvalidRequestError
from helpers.fixture_models import checkpoint
from helpers.gateways import request
from helpers.pictures import picture, picture_prompt, pixels, reference_features
from router.model.image_encoder import ImageEncoder, ImageEncodingError
from router.model.vision import EncodeBatch, VisionTower
from router.model.vision_limits import VisionLimits
from shards.kernels.threads import KernelThreads

SHAPES = [(1, 1), (11, 10), (2, 3), (9, 9), (1, 20)]  # in tokens; 440 and 324 patches: two blocks


@pytest.fixture(scope="module")
def tower():
    return VisionTower(checkpoint(), torch.bfloat16)


def run(batch):
    while batch.advance():
        pass
    return batch.features


def test_features_in_float32_are_those_of_whole_matrices():
    tower = VisionTower(checkpoint(), torch.float32)
    for rows, columns in SHAPES:
        values = pixels(rows, columns)
        difference = tower.encode(values) - reference_features(checkpoint(), values)
        assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("threads", [1, 3])
def test_features_depend_on_no_other_image_of_the_batch(tower, threads):
    images = [pixels(*shape, seed) for seed, shape in enumerate(SHAPES)]
    alone = [tower.encode(image) for image in images]
    shared = VisionTower(checkpoint(), torch.bfloat16, KernelThreads(threads))
    for order in (range(5), (4, 2, 0, 3, 1), (1, 1, 3)):
        together = run(EncodeBatch(shared, [images[i] for i in order]))
        for number, features in zip(order, together, strict=True):
            assert torch.equal(features, alone[number])


def test_slices_of_one_batch_may_wait_for_those_of_another(tower):
    images = [pixels(*shape, seed) for seed, shape in enumerate(SHAPES)]
    alone = [tower.encode(image) for image in images]
    batches = [EncodeBatch(tower, [image]) for image in images]
    while any([batch.advance() for batch in batches]):
        pass
    assert all(torch.equal(b.features[0], a) for b, a in zip(batches, alone, strict=True))


def test_share_of_a_step_is_one_block_at_least_whatever_the_size_of_the_image(tower):
    batch = EncodeBatch(tower, [pixels(40, 40)])  # 6400 patches: 25 blocks
    worths = []
    while worth := batch.advance():
        worths.append(worth)
    hidden, mlp, layers, patch = 16, 32, 2, 3 * 14 * 14
    linear = patch * hidden + layers * (4 * hidden**2 + 3 * hidden * mlp)
    attention = layers * 2 * 6400 * hidden
    project = 4 * hidden * hidden + hidden * 64 + 64 * 64
    assert len(worths) == 25 * (1 + 2 * layers) + 7
    assert sum(worths) == pytest.approx(
        6400 * (linear + attention) / linear + 1600 * project / linear
    )
    assert max(worths) < 256 * (linear + attention) / linear


def asked(*images, name="r"):
    ids, placed = picture_prompt(*images)
    return request(name, ids, images=placed)


def drain(encoder):
    shares = 0
    while encoder.work():
        shares += 1
    return shares


def encoder_of(tower, **limits):
    return ImageEncoder(tower, VisionLimits(**limits))


def test_every_image_is_encoded_once_and_small_ones_together(tower):
    encoder = encoder_of(tower, patches_per_batch=100)
    small = [picture(2, 3, seed) for seed in range(3)]  # 24 patches each
    requests = [asked(small[0], small[1]), asked(small[1], small[2], small[2]), asked(small[0])]
    for each in requests:
        encoder.begin(each)
    drain(encoder)
    assert all(map(encoder.is_ready, requests))
    counters = encoder.counters
    assert (counters.misses, counters.hits) == (3, 2)
    assert (counters.images, counters.batches) == (3, 1)
    assert counters.pixels == 3 * 56 * 84
    encoder.begin(asked(small[2]))
    assert (encoder.counters.hits, encoder.num_to_encode) == (3, 0)


@pytest.mark.parametrize(("patches_per_step", "num_shares"), [(1, 78), (10**9, 1)])
def test_large_image_takes_as_many_shares_as_its_patches_need(tower, patches_per_step, num_shares):
    encoder = encoder_of(tower, patches_per_step=patches_per_step)
    # 3600 patches: 15 blocks 5 times, and 900 tokens in 4. In both layers the keys of the last
    # block, 16 patches, are worth less than a share; another share finds that all is done.
    encoder.begin(asked(picture(30, 30)))
    assert drain(encoder) == num_shares


def test_images_that_have_no_room_wait_until_others_are_released(tower):
    image_bytes = tower.feature_bytes(pixels(2, 2))
    encoder = encoder_of(tower, cache_bytes=2 * image_bytes)
    requests = [asked(picture(2, 2, seed)) for seed in range(3)]
    for each in requests:
        encoder.begin(each)
    drain(encoder)
    assert [encoder.is_ready(r) for r in requests] == [True, True, False]
    assert encoder.cache.num_bytes == 2 * image_bytes
    encoder.release(requests[0])
    drain(encoder)
    assert encoder.is_ready(requests[2])
    assert encoder.cache.num_bytes == 2 * image_bytes
    again = asked(picture(2, 2, 0))
    encoder.begin(again)
    assert not encoder.is_ready(again)
    encoder.release(again)
    encoder.release(requests[1])
    drain(encoder)
    assert encoder.counters.images == 3


def test_image_that_nobody_waits_for_any_more_is_not_encoded(tower):
    encoder = encoder_of(tower, patches_per_step=1, patches_per_batch=1)
    first, second = asked(picture(30, 30)), asked(picture(2, 2))
    encoder.begin(first)
    encoder.begin(second)
    encoder.work()
    encoder.release(first)
    encoder.release(second)
    assert not encoder.work()
    assert (encoder.counters.images, encoder.cache.num_bytes) == (0, 0)


def test_failing_batch_ends_the_requests_of_its_images_and_no_others(tower, monkeypatch):
    encoder = encoder_of(tower, patches_per_batch=1)
    sick, well = asked(picture(2, 2, 0)), asked(picture(2, 2, 1))
    encoder.begin(sick)
    encoder.begin(well)
    with monkeypatch.context() as patched:
        patched.setattr(EncodeBatch, "advance", lambda self: 1 / 0)
        encoder.work()
    drain(encoder)
    assert encoder.is_ready(well)
    with pytest.raises(ImageEncodingError):
        encoder.is_ready(sick)
    encoder.release(sick)
    encoder.begin(sick)
    drain(encoder)
    assert encoder.is_ready(sick)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": np.zeros((3, 28, 30), np.float32)},
        {"pixels": np.zeros((1, 56, 84), np.float32)},
        {"pixels": np.zeros((3, 56, 84), np.float64)},
        {"grid_width": 2},
        {"grid_height": 3},
    ],
)
def test_pixels_that_are_no_image_of_their_layout_are_refused_by_field(tower, change):
    good, bad = picture(2, 3), replace(picture(2, 3, 1), **change)
    with pytest.raises(InvalidRequestError) as caught:
        encoder_of(tower).begin(request("r", range(40), images=(good, bad)))
    assert caught.value.field == "images[1]"
