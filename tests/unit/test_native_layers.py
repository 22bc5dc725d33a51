"""Layers by native kernels: as torch computes them, and every row by its own history only."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fixture_models import BLOCK_SIZE, checkpoint
from router.exchange.combine import combine
from router.model.batch import Chunk, build_batch
from router.model.kv_cache import PagedLatentCache
from router.model.native_layers import NativeLayers
from router.model.norm import rms_norm
from router.model.torch_layers import TorchLayers
from router.profiling import LayerTimer
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import preset
from shards.checkpoint.random_checkpoint import write_random_checkpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.native.library import LIBRARY, load

FAMILIES = load(LIBRARY)
every_family = pytest.mark.parametrize("kernels", FAMILIES, ids=lambda kernels: kernels.family)
SOURCE = checkpoint()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose latents fill several superblocks, the last one in part, with odd tiles."""
    config = replace(preset("tiny"), kv_lora_rank=144, num_heads=12)
    path = tmp_path_factory.mktemp("wide")
    write_random_checkpoint(path, config, seed=1)
    return open_checkpoint(path)


BF16 = torch.bfloat16
LONG = 4096 + 70  # more keys than a segment has


def native(kernels, num_threads=1, dense=WeightFormat.BF16, source=SOURCE):
    return NativeLayers(kernels, source, num_threads, num_threads, dense, lambda _: None)


def empty_cache(num_blocks=64, source=SOURCE):
    return PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, BF16)


def rows_of(length, seed=0, source=SOURCE):
    """Residuals of a sequence: what a token brings depends on its position and the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((length, source.config.hidden_size), generator=generator).to(BF16)


def blocks_of(length, first=1):
    return list(range(first, first + -(-length // BLOCK_SIZE)))


def front(layers, cache, parts, layer=1):
    """Run parts (rows, start, stop, blocks) in one step; residuals and choices of all rows."""
    chunks = [Chunk([0] * (stop - start), start, blocks) for _, start, stop, blocks in parts]
    step = layers.begin(build_batch(chunks, cache), cache)
    hidden = torch.cat([rows[start:stop] for rows, start, stop, _ in parts])
    padded = torch.zeros((-(-len(hidden) // 16) * 16, hidden.shape[1]), dtype=BF16)
    padded[: len(hidden)] = hidden
    routed = step.front(layer, step.start(padded), LayerTimer())
    count = len(hidden)
    return (
        routed.residual[:count].clone(),
        routed.normed.clone(),
        routed.expert_ids.copy(),
        routed.weights.clone(),
    )


def assert_same(got, want, rows=slice(None)):
    for a, b in zip(got, want, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)[rows])


@every_family
@pytest.mark.parametrize("name", ["fixture", "wide"])
def test_a_front_is_what_torch_computes(kernels, name, wide):
    source = wide if name == "wide" else SOURCE
    rows, blocks = rows_of(200, source=source), blocks_of(200)
    caches = empty_cache(source=source), empty_cache(source=source)
    torch_layers = TorchLayers(source, BF16, 1, lambda _: None)
    for start, stop in ((0, 121), (121, 122), (122, 200)):
        part = [(rows, start, stop, blocks)]
        got = front(native(kernels, source=source), caches[0], part)
        want = front(torch_layers, caches[1], part)
        for a, b in zip(got[:2], want[:2], strict=True):
            torch.testing.assert_close(a.float(), b.float(), rtol=0.03, atol=0.03)
        same = (got[2] == want[2]).all(axis=1)  # near ties may fall the other way
        assert same.mean() > 0.95
        torch.testing.assert_close(got[3][same], want[3][same], rtol=0.05, atol=0.02)
    latents = [cache.sequence(1, blocks, 200).float() for cache in caches]
    torch.testing.assert_close(*latents, rtol=0.02, atol=0.02)


@every_family
def test_int8_weights_are_near_the_bf16_ones(kernels):
    rows, blocks = rows_of(60), blocks_of(60)
    part = [(rows, 0, 60, blocks)]
    exact, near = (
        front(native(kernels, dense=held), empty_cache(), part)[0].float() - rows.float()
        for held in (WeightFormat.BF16, WeightFormat.INT8)
    )
    assert not torch.equal(exact, near)
    assert (near - exact).norm() < 0.05 * exact.norm()


@every_family
@pytest.mark.parametrize("dense", [WeightFormat.BF16, WeightFormat.INT8])
@settings(max_examples=12, deadline=None)
@given(data=st.data(), threads=st.integers(1, 3))
def test_a_row_depends_on_its_own_history_only(kernels, dense, wide, data, threads):
    """One pass, or any cut into chunks among other sequences and on any number of threads."""
    length, source = data.draw(st.integers(1, 300)), data.draw(st.sampled_from([SOURCE, wide]))
    rows, blocks = rows_of(length, source=source), blocks_of(length)
    alone = native(kernels, 1, dense, source)
    whole = front(alone, empty_cache(source=source), [(rows, 0, length, blocks)])
    cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=5))})
    cache, layers = empty_cache(source=source), native(kernels, threads, dense, source)
    other, done = rows_of(60, seed=1, source=source), 0
    for start, stop in pairwise(cuts):
        mine = (rows, start, stop, blocks)
        count = data.draw(st.integers(0, min(9, 60 - done)))
        parts = [mine] if not count else [(other, done, done + count, blocks_of(60, 40)), mine]
        done += count
        got = front(layers, cache, parts)
        assert_same([a[count:] for a in got], whole, slice(start, stop))


@every_family
def test_a_token_beyond_one_segment_is_the_same_decoded_and_prefilled(kernels):
    rows, blocks = rows_of(LONG), blocks_of(LONG)
    cache = empty_cache(num_blocks=len(blocks) + 1)
    whole = front(native(kernels), cache, [(rows, 0, LONG, blocks)])
    for threads in (1, 3):
        for position in (4095, 4096, LONG - 1):
            part = [(rows, position, position + 1, blocks)]
            got = front(native(kernels, threads), cache, part)
            assert_same(got, whole, slice(position, position + 1))


@every_family
def test_blocks_may_lie_anywhere_and_hold_anything_behind_the_sequence(kernels):
    rows = rows_of(100)
    want = front(native(kernels), empty_cache(), [(rows, 0, 100, blocks_of(100))])
    cache = empty_cache()
    cache.layer(1)[:] = 3.0
    scattered = [33, 2, 60, 5, 19, 7, 41]
    assert_same(front(native(kernels), cache, [(rows, 0, 100, scattered)]), want)


@every_family
def test_what_is_not_finite_stays_with_its_token(kernels):
    rows, blocks = rows_of(40), blocks_of(40)
    want = front(native(kernels), empty_cache(), [(rows, 0, 40, blocks)])
    bad = rows.clone()
    bad[20, 3] = torch.nan
    cache = empty_cache()
    got = front(native(kernels), cache, [(bad, 0, 40, blocks)])
    assert got[0][20].isnan().any()
    assert cache.sequence(1, blocks, 40).isfinite().all()
    assert_same([a[:20] for a in got], want, slice(0, 20))
    experts = got[2]
    assert ((experts >= 0) & (experts < SOURCE.config.num_experts)).all()


@every_family
def test_many_callers_at_once_get_what_one_gets(kernels):
    rows, blocks = rows_of(130), blocks_of(130)
    part = [(rows, 0, 130, blocks)]
    want = front(native(kernels), empty_cache(), part)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(front, native(kernels, 2), empty_cache(), part) for _ in range(12)]
        for job in jobs:
            assert_same(job.result(timeout=60), want)


@every_family
@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 9), hidden=st.sampled_from([2, 48, 64, 130]), seed=st.integers(0, 99))
def test_norm_and_combine_are_those_of_torch(kernels, tokens, hidden, seed):
    generator = torch.Generator().manual_seed(seed)
    x, shared, rows, weight, weights = (
        torch.randn(shape, generator=generator)
        for shape in ((tokens, hidden), (tokens, hidden), (tokens, 4, hidden), hidden, (tokens, 4))
    )
    x, shared, rows = x.to(BF16), shared.to(BF16), rows.to(BF16)
    normed = kernels.rms_norm(x, weight, 1e-6)
    close = {"rtol": 0.01, "atol": 0.01}
    torch.testing.assert_close(normed.float(), rms_norm(x, weight, 1e-6).float(), **close)
    want = x.float() + combine(shared.float(), rows.float(), weights)
    kernels.combine(x, shared, rows, weights, 2)
    torch.testing.assert_close(x.float(), want, **close)


@every_family
@pytest.mark.parametrize(
    ("chunk", "said"),
    [(Chunk([0], 0, [64]), "not there"), (Chunk([0], 16, [1]), None), (Chunk([0], 0, [-1]), "not")],
)
def test_places_outside_the_cache_are_refused(kernels, chunk, said):
    cache = empty_cache(num_blocks=64)
    with pytest.raises((ValueError, IndexError), match=said):
        native(kernels).begin(build_batch([chunk], cache), cache)


@every_family
def test_rows_of_another_shape_are_refused(kernels):
    cache = empty_cache()
    step = native(kernels).begin(build_batch([Chunk([0, 0], 0, [1])], cache), cache)
    for x in (rows_of(1), rows_of(3), rows_of(2).float(), rows_of(4)[::2]):
        with pytest.raises(ValueError, match="x: "):
            step.front(0, x, LayerTimer())


def test_the_best_experts_are_chosen_by_score_then_id():
    """Equal scores: a gate of equal rows chooses the lowest ids, with equal weights."""
    layers = native(FAMILIES[-1])
    gate = layers.layers[1]._held[-1]
    gate.zero_()
    rows = rows_of(5)
    _, _, experts, weights = front(layers, empty_cache(), [(rows, 0, 5, [1])])
    top_k = SOURCE.config.num_experts_per_tok
    assert np.array_equal(experts, np.tile(np.arange(top_k), (5, 1)))
    scale = SOURCE.config.routed_scaling_factor
    torch.testing.assert_close(weights, torch.full((5, top_k), scale / top_k))
