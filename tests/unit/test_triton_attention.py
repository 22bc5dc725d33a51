"""Attention and rows by the GPU's kernels: as torch has them; bits by a token's history alone."""

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, bits_equal, randn, worst
from router.exchange.combine import combine
from router.model.norm import rms_norm
from router.model.rope import Rotation
from shards.kernels import segments as cut
from shards.kernels.gpu import attention, rows
from shards.kernels.gpu.attention import AttentionShape

BF16, FP32 = torch.bfloat16, torch.float32
BLOCK = 16
# The real widths with few heads; the fixtures' ones, where a tile has many tokens; odd ones.
REAL = AttentionShape(heads=32, nope=64, rope=64, latent=256, value=128)
TINY = AttentionShape(heads=4, nope=16, rope=16, latent=32, value=32)
ODD = AttentionShape(heads=12, nope=16, rope=16, latent=48, value=32)
TOLERANCE = {BF16: 0.04, FP32: 1e-4}


def ints(values):
    return torch.tensor(list(values), dtype=torch.int32, device=DEVICE)


def paged(num_keys, shape, dtype, seed=0):
    """A cache whose blocks lie in a random order, and its table. Block 0 is nobody's."""
    num_blocks = -(-num_keys // BLOCK)
    cache = randn(num_blocks + 3, BLOCK, shape.latent + shape.rope, seed=seed, dtype=dtype)
    order = np.random.default_rng(seed).permutation(num_blocks) + 1
    return cache, order.tolist()


def keys_of(cache, table):
    return cache[torch.tensor(table)].flatten(0, 1)


def some_queries(count, shape, dtype, seed=1):
    width = shape.latent + shape.rope
    return randn(count, shape.heads, width, seed=seed, dtype=dtype, scale=width**-0.5)


def decode(q, cache, tables, positions, shape, num_segments=None, at=None):
    at = list(range(len(positions))) if at is None else at
    out = torch.zeros((len(q), shape.heads, shape.latent), dtype=q.dtype, device=DEVICE)
    width = max(map(len, tables))
    padded = ints([table + [0] * (width - len(table)) for table in tables])
    segments = num_segments or cut.segments_of(max(positions) + 1)
    attention.attend_decodes(*(q, cache, padded, ints(at), ints(positions), segments, out, shape))
    return out


def prompt(q, cache, table, start, shape):
    """A chunk of one sequence, its tokens from ``start`` on."""
    out = torch.zeros((len(q), shape.heads, shape.latent), dtype=q.dtype, device=DEVICE)
    each = shape.tokens_per_tile
    tiles = [[at, min(each, len(q) - at), start + at, 0] for at in range(0, len(q), each)]
    attention.attend_prompts(q, cache, ints([table]), ints(tiles), out, shape)
    return out


@pytest.mark.parametrize("shape", [REAL, TINY, ODD], ids=["real", "tiny", "odd"])
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_decoded_tokens_attend_as_torch_does(shape, dtype):
    cache, table = paged(600, shape, dtype)
    positions = [0, 63, 64, 530] if shape is not REAL else [70, 530]
    q = some_queries(len(positions), shape, dtype)
    got = decode(q, cache, [table] * len(positions), positions, shape)
    for i, position in enumerate(positions):
        want = attention.reference(q[i], keys_of(cache, table), position, shape)
        assert worst(got[i], want) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [TINY, ODD], ids=["tiny", "odd"])
def test_a_prompts_tokens_attend_as_torch_does(shape):
    cache, table = paged(140, shape, BF16)
    q = some_queries(50, shape, BF16)
    got = prompt(q, cache, table, 80, shape)
    for i in (0, 1, 17, 49):
        want = attention.reference(q[i], keys_of(cache, table), 80 + i, shape)
        assert worst(got[i], want) < TOLERANCE[BF16]


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_a_token_is_the_same_bits_decoded_prefilled_and_in_any_chunk(dtype):
    """Across the border of segments: joined in one program, or by many."""
    shape, start, count = TINY, 480, 70
    cache, table = paged(start + count, shape, dtype)
    q = some_queries(count, shape, dtype)
    whole = prompt(q, cache, table, start, shape)
    for at in (0, 31, 32, 33, count - 1):
        alone = decode(q[at : at + 1], cache, [table], [start + at], shape)
        assert bits_equal(alone[0], whole[at])
    for first, last in ((0, 1), (5, 43), (43, 70)):
        part = prompt(q[first:last], cache, table, start + first, shape)
        assert bits_equal(part, whole[first:last])


def test_a_token_is_the_same_bits_behind_the_small_segments_too():
    shape, start, count = TINY, 2555, 10
    assert start < cut.NEAR + cut.SEGMENT < start + count
    cache, table = paged(start + count, shape, BF16)
    q = some_queries(count, shape, BF16)
    whole = prompt(q, cache, table, start, shape)
    for at in (0, count - 1):
        alone = decode(q[at : at + 1], cache, [table], [start + at], shape)
        assert bits_equal(alone[0], whole[at])
        want = attention.reference(q[at], keys_of(cache, table), start + at, shape)
        assert worst(alone[0], want) < TOLERANCE[BF16]


def test_neighbours_and_room_for_more_segments_change_no_bit():
    shape = TINY
    cache, table = paged(700, shape, BF16)
    q = some_queries(3, shape, BF16)
    together = decode(q, cache, [table, table, table[:7]], [650, 513, 100], shape)
    assert bits_equal(decode(q[1:2], cache, [table], [513], shape)[0], together[1])
    assert bits_equal(decode(q[2:3], cache, [table[:7]], [100], shape, 4)[0], together[2])


def test_keys_behind_a_token_are_not_seen_whatever_lies_there():
    shape = TINY
    cache, table = paged(128, shape, BF16)
    q = some_queries(1, shape, BF16)
    before = decode(q, cache, [table], [70], shape)
    cache[torch.tensor(table)[5:]] = 60.0
    assert bits_equal(decode(q, cache, [table], [70], shape), before)


def test_a_padding_row_gives_zeros():
    cache, table = paged(20, TINY, BF16)
    q = some_queries(2, TINY, BF16)
    out = decode(q, cache, [table, [0, 0]], [19, -1], TINY, 1)
    assert out[0].abs().sum() > 0
    assert out[1].abs().sum() == 0


def test_segments_are_those_that_keys_fill():
    assert [cut.segments_of(n) for n in (1, 128, 129, 2048, 2049, 2561)] == [
        1,
        1,
        2,
        16,
        17,
        18,
    ]
    assert [cut.keys_of(n) for n in (0, 1, 16, 17)] == [0, 128, 2048, 2560]
    assert all(cut.segments_of(cut.keys_of(n)) == n for n in range(1, 80))


def test_more_segments_than_are_read_at_once_are_joined_one_after_the_other():
    shape, count = TINY, 21
    stats = randn(1, count, shape.heads, 2, dtype=FP32).abs() + 0.5
    parts = randn(1, count, shape.heads, shape.latent, seed=1, dtype=FP32)
    for seen in (1, 16, 17, count):
        out = torch.empty((1, shape.heads, shape.latent), device=DEVICE)
        position = cut.keys_of(seen - 1) + 3
        attention.join(stats, parts, ints([0]), ints([position]), out, shape)
        weights = (stats[0, :seen, :, 0] - stats[0, :seen, :, 0].amax(0)).exp()
        total = (weights * stats[0, :seen, :, 1]).sum(0)
        want = (weights[..., None] * parts[0, :seen]).sum(0) / total[:, None]
        torch.testing.assert_close(out[0], want, rtol=1e-4, atol=1e-5)


def halves(whole):
    """Two parts that join to these bits, and lie as a product's do."""
    parts = torch.stack([whole.float() * 0.5, whole.float() * 0.5])
    assert bits_equal((parts[0] + parts[1]).to(whole.dtype), whole)
    return parts


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_what_reads_a_product_joins_its_parts_to_the_same_bits(dtype):
    shape, count = ODD, 5
    turn = Rotation(np.geomspace(1, 0.01, shape.rope // 2), np.arange(count) * 7)
    moved = (turn.cos.to(DEVICE), turn.sin.to(DEVICE))
    q = randn(count, shape.heads * (shape.nope + shape.rope), dtype=dtype)
    u_k = randn(shape.heads, shape.latent, shape.nope, seed=1, dtype=dtype)
    args = u_k, *moved, torch.linspace(0.1, 0.2, count).to(DEVICE), shape
    assert bits_equal(attention.queries(halves(q), *args), attention.queries(q, *args))
    x, delta = randn(count, 96, dtype=dtype), randn(count, 96, seed=1, dtype=dtype)
    weight = randn(96, seed=2, dtype=FP32)
    for got, want in zip(
        rows.add_norm(x, halves(delta), weight, 1e-6),
        rows.add_norm(x, delta, weight, 1e-6),
        strict=True,
    ):
        assert bits_equal(got, want)
    both = randn(count, 40 + 24 + shape.rope, dtype=dtype)
    norms = [randn(n, seed=n, dtype=FP32) for n in (40, 24)]
    caches = [torch.zeros((1, BLOCK, 24 + shape.rope), dtype=dtype, device=DEVICE) for _ in "ab"]
    queries = [
        rows.store_latents(of, *norms, *moved, ints(range(count)), cache, 1e-6)
        for of, cache in zip((both, halves(both)), caches, strict=True)
    ]
    assert bits_equal(*queries)
    assert bits_equal(*caches)


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_queries_are_absorbed_rotated_and_scaled(dtype):
    shape, count = ODD, 19
    q = randn(count, shape.heads * (shape.nope + shape.rope), dtype=dtype)
    u_k = randn(shape.heads, shape.latent, shape.nope, seed=1, dtype=dtype, scale=0.25)
    turn = Rotation(np.geomspace(1, 0.01, shape.rope // 2), np.arange(count) * 7)
    factors = torch.linspace(0.1, 0.2, count)
    moved = (turn.cos.to(DEVICE), turn.sin.to(DEVICE), factors.to(DEVICE))
    got = attention.queries(q, u_k, *moved, shape)
    plain = q.float().cpu().view(count, shape.heads, -1)
    absorbed = torch.einsum("thd,hcd->thc", plain[..., : shape.nope], u_k.float().cpu())
    want = torch.cat([absorbed, turn.apply(plain[..., shape.nope :])], -1) * factors[:, None, None]
    assert worst(got, want) < TOLERANCE[dtype]
    some = attention.queries(q[4:7], u_k, *(m[4:7] for m in moved), shape)
    assert bits_equal(some, got[4:7])


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_norms_residuals_and_the_combine_are_those_of_torch(dtype):
    x, delta = randn(5, 96, dtype=dtype), randn(5, 96, seed=1, dtype=dtype)
    weight = (1 + 0.1 * randn(96, seed=2, dtype=FP32)).contiguous()
    near = {BF16: 0.02, FP32: 1e-5}[dtype]
    assert worst(rows.rms_norm(x, weight, 1e-6), rms_norm(x, weight, 1e-6)) < near
    total, normed = rows.add_norm(x, delta, weight, 1e-6)
    assert torch.equal(total, x + delta)
    assert worst(normed, rms_norm(x + delta, weight, 1e-6)) < near
    routed = randn(5, 4, 96, seed=3, dtype=dtype)
    shares = torch.softmax(randn(5, 4, seed=4, dtype=FP32), -1)
    joined, normed = rows.join_norm(x, delta, routed, shares, weight, 1e-6)
    want = x + combine(delta, routed, shares)
    assert worst(joined, want) < near
    assert worst(normed, rms_norm(joined, weight, 1e-6)) < near
    alone = rows.join_norm(*(t[2:3].contiguous() for t in (x, delta, routed, shares)), weight, 1e-6)
    assert bits_equal(alone[0], joined[2:3])
    assert bits_equal(alone[1], normed[2:3])


def test_latents_are_normed_rotated_and_stored_at_their_slots():
    q_size, c_size, pairs, count = 40, 24, 8, 3
    both = randn(count, q_size + c_size + 2 * pairs, dtype=FP32)
    both[1, q_size + 2] = float("nan")
    weights = [randn(n, seed=n, dtype=FP32) for n in (q_size, c_size)]
    turn = Rotation(np.geomspace(1, 0.1, pairs), np.array([3, 4, 5]))
    cache = torch.full((4, BLOCK, c_size + 2 * pairs), 7.0, device=DEVICE)
    moved = turn.cos.to(DEVICE), turn.sin.to(DEVICE), ints([17, 2 * BLOCK, -1])
    q = rows.store_latents(both, *weights, *moved, cache, 1e-6)
    torch.testing.assert_close(q, rms_norm(both[:, :q_size], weights[0], 1e-6))
    flat = cache.view(-1, c_size + 2 * pairs).cpu()
    c = rms_norm(both[0, q_size : q_size + c_size], weights[1], 1e-6).cpu()
    torch.testing.assert_close(flat[17, :c_size], c)
    rotated = turn.apply(both[:, q_size + c_size :].cpu())[0]
    torch.testing.assert_close(flat[17, c_size:], rotated)
    assert (flat[2 * BLOCK, :c_size] == 0).all()  # a norm of what is no number is none
    written = [17, 2 * BLOCK]
    rest = [i for i in range(len(flat)) if i not in written]
    assert (flat[rest] == 7).all()
