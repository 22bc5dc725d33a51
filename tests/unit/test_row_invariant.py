"""Rows of every product are the same bits whatever else is computed with them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.kernels.grouped_mlp import grouped_mlp
from shards.kernels.row_invariant import TILE, linear, pad_rows, plan_for, segments

SHAPES = [(32, 64), (64, 32), (256, 1024), (512, 1024), (320, 1024), (1024, 1024), (128, 1024)]


def random_pair(n, k, dtype, rows=1024):
    generator = torch.Generator().manual_seed(n * 7919 + k)
    return (
        torch.randn((rows, k), generator=generator).to(dtype),
        torch.randn((n, k), generator=generator).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 600), threads=st.sampled_from([1, 2]))
def test_a_row_is_the_same_alone_and_in_any_shuffled_slice(n, k, dtype, seed, rows, threads):
    x, weight = random_pair(n, k, dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([linear(x[i : i + TILE], weight) for i in range(0, len(x), TILE)])
        torch.set_num_threads(threads)
        pick = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:rows])
        got = linear(pad_rows(x[pick]), weight)[:rows]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, alone[pick])


def test_without_tiles_the_law_does_not_hold_somewhere():
    """The tiles are needed: a plain product of other row counts changes bits on this machine."""
    x, weight = random_pair(1024, 1024, torch.bfloat16)
    tiled = linear(x, weight)
    plain = [torch.equal(x[:rows] @ weight.T, tiled[:rows]) for rows in (1, 48, 64, 128, 256)]
    single = [torch.equal(x32[:1] @ w32.T, linear(x32, w32)[:1]) for x32, w32 in _float_pairs()]
    assert not all(plain + single)


def _float_pairs():
    return [random_pair(n, k, torch.float32) for n, k in SHAPES]


def test_rows_that_are_not_padded_are_refused():
    x, weight = random_pair(32, 64, torch.float32)
    with pytest.raises(ValueError, match="multiple of 16"):
        linear(x[:5], weight)


@given(st.integers(0, 300))
def test_segments_cover_every_row_once(tiles_count):
    cuts = segments(tiles_count * TILE, (512, 32, 16))
    assert [row for start, stop in cuts for row in range(start, stop)] == list(
        range(tiles_count * TILE)
    )


def test_a_plan_always_holds_the_defining_tile():
    for n, k in SHAPES:
        assert plan_for(random_pair(n, k, torch.float32)[1]).tiles[-1] == TILE


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_grouped_mlp_rows_equal_the_row_computed_alone(data):
    generator = torch.Generator().manual_seed(3)
    hidden, width, experts = 64, 32, 5
    gate_up = [
        torch.randn((2 * width, hidden), generator=generator).bfloat16() for _ in range(experts)
    ]
    down = [torch.randn((hidden, width), generator=generator).bfloat16() for _ in range(experts)]
    x = torch.randn((40, hidden), generator=generator).bfloat16()
    counts = data.draw(st.lists(st.integers(0, 40), min_size=experts, max_size=experts))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    row_token = rng.integers(0, len(x), size=sum(counts))
    got = grouped_mlp(x, row_token, counts, gate_up, down)
    experts_of_rows = np.repeat(np.arange(experts), counts)
    for row in range(0, len(row_token), max(1, len(row_token) // 7)):
        expert = experts_of_rows[row]
        alone = grouped_mlp(
            x[row_token[row]][None], np.zeros(1, np.int64), [1], [gate_up[expert]], [down[expert]]
        )
        assert torch.equal(got[row], alone[0])
