from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.reference_sampling import reference_philox
from router.engine.fixed_math import fixed_exp, fixed_log, fixed_sum
from router.engine.philox import (
    MAX_NOISE,
    MIN_NOISE,
    gumbel_from_bits,
    gumbel_noise,
    philox4x32,
    random_bits,
)

SEEDS = st.integers(-(2**63), 2**63 - 1)
CHOICES = st.integers(0, 15)
POSITIONS = st.integers(0, 2**40)
IDS = st.integers(0, 2**32 - 1)

# Random123, tests/kat_vectors, lines "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, result):
    arrays = tuple(np.array([word], dtype=np.uint64) for word in words(counter))
    block = philox4x32(arrays, words(key))
    assert tuple(int(word[0]) for word in block) == words(result)
    assert reference_philox(words(counter), words(key)) == words(result)


@settings(max_examples=60, deadline=None)
@given(SEEDS, CHOICES, POSITIONS, st.lists(IDS, min_size=1, max_size=20))
def test_bits_are_the_documented_lane_of_the_documented_block(seed, choice, position, ids):
    bits = random_bits(seed, choice, position, np.array(ids, dtype=np.int64))
    key = (seed % 2**32, (seed >> 32) % 2**32)
    for token, found in zip(ids, bits, strict=True):
        counter = (token // 4, position % 2**32, choice, position // 2**32)
        assert int(found) == reference_philox(counter, key)[token % 4]


@settings(max_examples=60, deadline=None)
@given(SEEDS, CHOICES, POSITIONS, st.data())
def test_noise_of_some_tokens_is_that_of_the_whole_vocabulary(seed, choice, position, data):
    vocab_size = data.draw(st.integers(1, 5000))
    whole = gumbel_noise(seed, choice, position, range(vocab_size))
    ids = np.array(data.draw(st.lists(st.integers(0, vocab_size - 1), max_size=40)), dtype=np.int64)
    first, end = sorted(data.draw(st.tuples(*[st.integers(0, vocab_size)] * 2)))

    assert gumbel_noise(seed, choice, position, ids).tobytes() == whole[ids].tobytes()
    part = gumbel_noise(seed, choice, position, range(first, end))
    assert part.tobytes() == whole[first:end].tobytes()


def test_noise_of_a_whole_vocabulary_is_that_of_its_blocks():
    whole = gumbel_noise(9, 1, 77, range(131072))
    parts = [gumbel_noise(9, 1, 77, range(i, i + 1000)) for i in range(0, 131000, 1000)]
    assert np.array_equal(whole[:131000], np.concatenate(parts))


@pytest.mark.parametrize("other", [(8, 0, 5), (7 + 2**32, 0, 5), (7, 1, 5), (7, 0, 6)])
def test_bits_differ_if_seed_choice_or_position_differ(other):
    assert not np.any(random_bits(7, 0, 5, range(200)) == random_bits(*other, range(200)))


def test_noise_at_the_extreme_bits_is_finite_and_within_its_bounds():
    low, high = gumbel_from_bits(np.array([0, 2**32 - 1], dtype=np.uint32))
    assert MIN_NOISE < low < MIN_NOISE + 0.02
    assert MAX_NOISE - 0.02 < high < MAX_NOISE


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_noise_is_the_double_logarithm_rounded_once(bits):
    u = (bits + 0.5) / 2**32
    expected = np.float32(-math.log(-math.log(u) if u < 0.5 else -math.log1p(-(1 - u))))
    found = gumbel_from_bits(np.array([bits], dtype=np.uint32))[0]
    assert abs(found - expected) <= np.spacing(abs(expected))


def chi_square(counts: np.ndarray, expected: np.ndarray | float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("axis", ["token", "position", "choice", "seed"])
def test_bits_are_uniform_along_every_part_of_the_key(axis):
    num_draws, num_bins = 2048, 64
    draws = {
        "token": lambda: random_bits(3, 0, 17, range(num_draws)),
        "position": lambda: [random_bits(3, 0, i, range(1))[0] for i in range(num_draws)],
        "choice": lambda: [random_bits(3, i, 17, range(1))[0] for i in range(num_draws)],
        "seed": lambda: [random_bits(i, 0, 17, range(1))[0] for i in range(num_draws)],
    }
    bits = np.asarray(draws[axis](), dtype=np.uint32)
    for shift in (26, 0):  # the high bits and the low ones
        counts = np.bincount(bits >> np.uint32(shift) & np.uint32(63), minlength=num_bins)
        # 63 degrees of freedom: mean 63, deviation 11.2. Five deviations; the seeds are fixed.
        assert abs(chi_square(counts, num_draws / num_bins) - 63) < 56


@settings(max_examples=200)
@given(st.floats(-87, 0, width=32))
def test_exp_is_within_a_unit_of_the_last_place(x):
    expected = np.float32(math.exp(x))
    assert abs(fixed_exp(np.array([x], dtype=np.float32))[0] - expected) <= np.spacing(expected)


def test_exp_is_exact_at_its_ends():
    ends = np.array([0.0, -0.0, -87.5, -1e30, -np.inf], dtype=np.float32)
    assert fixed_exp(ends).tolist() == [1, 1, 0, 0, 0]


@settings(max_examples=200)
@given(st.floats(2.0**-1022, 1e300))
def test_log_agrees_with_the_library(x):
    assert fixed_log(np.array([x]))[0] == pytest.approx(math.log(x), rel=1.5e-15, abs=1e-300)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_sum_follows_its_lanes(size):
    x = np.random.default_rng(size).random(size, dtype=np.float32)
    lanes = [np.float32(0)] * 1024
    for i, value in enumerate(x):
        lanes[i % 1024] += value
    total = np.float32(0)
    for lane in lanes:
        total += lane
    assert fixed_sum(x) == total
