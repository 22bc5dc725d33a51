"""Products by the GPU's kernels: as torch has them, and every row by itself."""

import numpy as np
import pytest
import torch

from helpers.triton_device import DEVICE, bits_equal, randn, worst
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import grouped, linear
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.linear import DeviceLinear, batched
from shards.kernels.gpu.weights import stacked, to_device, wide_on_device
from shards.kernels.quantise import Codes, wide

BF16, FP32 = torch.bfloat16, torch.float32
TOLERANCE = {BF16: 0.03, FP32: 1e-4}  # of one rounding to bf16, and of the order of sums
KINDS = [(BF16, WeightFormat.BF16), (FP32, WeightFormat.BF16), (FP32, WeightFormat.FP8)]
KINDS += [(BF16, held) for held in (WeightFormat.FP8, WeightFormat.INT8, WeightFormat.INT4)]
every_kind = pytest.mark.parametrize(
    ("dtype", "held"), KINDS, ids=lambda v: v.label if isinstance(v, WeightFormat) else str(v)
)


def fp8_codes(n, k, seed):
    """Every finite code is among them, subnormal ones too."""
    bits = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, k), np.uint8))
    bits[(bits & 127) == 127] = 1  # the codes of NaN
    scales = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 0.002 + 0.001
    return Codes(bits.view(torch.float8_e4m3fn), scales, k, WeightFormat.FP8)


def stored(n, k, dtype, held, seed=0):
    if held is WeightFormat.FP8:
        return fp8_codes(n, k, seed)
    return randn(n, k, seed=seed, dtype=dtype, scale=k**-0.5).cpu()


def weight(n, k, dtype, held, seed=0):
    asked = WeightFormat.BF16 if held is WeightFormat.FP8 else held
    return to_device(stored(n, k, dtype, held, seed), asked, dtype, DEVICE)


@every_kind
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 40, 96), (21, 200, 128), (70, 600, 72)])
def test_a_product_is_that_of_torch(dtype, held, rows, n, k):
    of, x = weight(n, k, dtype, held), randn(rows, k, seed=1, dtype=dtype)
    got = DeviceLinear(of, dtype)(x, torch.empty((rows, n), device=DEVICE))
    assert worst(got, linear.reference(x, of)) < 2e-5  # float32 sums, nothing is rounded
    rounded = DeviceLinear(of, dtype)(x)
    assert rounded.dtype == dtype
    assert worst(rounded, linear.reference(x, of)) < TOLERANCE[dtype]


@every_kind
def test_a_row_of_a_product_is_the_same_bits_alone_and_among_others(dtype, held):
    product = DeviceLinear(weight(600, 96, dtype, held), dtype)
    x = randn(70, 96, seed=2, dtype=dtype)
    whole = product(x)
    for rows in ([0], [69, 3], list(range(5, 40)), list(reversed(range(70)))):
        assert bits_equal(product(x[rows]), whole[rows])


@every_kind
def test_a_product_in_parts_joins_to_its_own_bits(dtype, held):
    """Parts are joined in their order, by whoever reads them; many rows are never in parts."""
    product = DeviceLinear(weight(40, 1024, dtype, held), dtype, 4)
    x = randn(70, 1024, seed=2, dtype=dtype)
    whole = product(x)
    assert product.parts(x).shape == (1, 70, 40)
    assert bits_equal(product.parts(x)[0], whole)
    for rows in ([0], [69, 3], list(range(5, 26))):
        parts = product.parts(x[rows])
        assert parts.shape == (4, len(rows), 40)
        joined = ((parts[0] + parts[1]) + parts[2]) + parts[3]
        assert bits_equal(joined.to(dtype), whole[rows])
    assert worst(product.parts(x[:2], FP32).sum(0), linear.reference(x[:2], product.weight)) < 2e-5


def test_inputs_are_cut_only_where_outputs_are_few_and_inputs_enough():
    assert linear.parts_for(4096, 4096) == 4
    assert linear.parts_for(128, 4096) == 16  # of 256 inputs each, never less
    assert linear.parts_for(1344, 4096) == 8
    assert linear.parts_for(131072, 4096) == 1
    assert linear.parts_for(128, 96) == 1
    with pytest.raises(ValueError, match="num_parts=3"):
        DeviceLinear(weight(40, 1024, BF16, WeightFormat.BF16), BF16, 3)


def test_members_of_a_batch_have_weights_of_their_own():
    x, of = randn(9, 3, 24, seed=1), randn(3, 40, 24, seed=2)
    out = torch.empty((9, 3, 40), dtype=BF16, device=DEVICE)
    batched(x, of, out)
    assert worst(out, torch.einsum("tbk,bnk->tbn", x.float(), of.float())) < TOLERANCE[BF16]


@pytest.mark.parametrize("held", [WeightFormat.FP8, WeightFormat.INT8, WeightFormat.INT4])
def test_a_weight_on_the_device_stands_for_what_its_codes_do(held):
    if held is WeightFormat.FP8:
        codes = fp8_codes(8, 96, 0)
    else:
        from shards.kernels.quantise import codes_of

        codes = codes_of(randn(8, 96).cpu(), held)
    asked = WeightFormat.BF16 if held is WeightFormat.FP8 else held
    assert torch.equal(wide_on_device(to_device(codes, asked, BF16, DEVICE)).cpu(), wide(codes))


def test_stacked_fp8_weights_keep_their_scales_and_mixed_ones_are_widened():
    a, b = fp8_codes(4, 32, 0), fp8_codes(6, 32, 1)
    assert torch.equal(wide(stacked([a, b], BF16)), torch.cat([wide(a), wide(b)]))
    plain = randn(6, 32).cpu()
    assert torch.equal(stacked([a, plain], BF16)[4:], plain)


WIDTH, HIDDEN, EXPERTS = 80, 96, 5


def bank(dtype, held, num_experts=EXPERTS):
    asked = WeightFormat.BF16 if held is WeightFormat.FP8 else held
    experts = TritonExperts(num_experts, dtype, asked, DEVICE)
    pairs = []
    for e in range(num_experts):
        gate, up = (stored(WIDTH, HIDDEN, dtype, held, seed=10 * e + i) for i in (0, 1))
        down = stored(HIDDEN, WIDTH, dtype, held, seed=10 * e + 2)
        experts.add(e, gate, up, down)
        both = to_device(stacked([gate, up], dtype), asked, dtype, DEVICE)
        pairs.append((both, to_device(down, asked, dtype, DEVICE)))
    return experts, pairs


def choices(num_tokens, top_k, seed):
    rng = np.random.default_rng(seed)
    picks = [np.sort(rng.permutation(EXPERTS)[:top_k]) for _ in range(num_tokens)]
    return np.array(picks)


@every_kind
def test_every_row_goes_through_its_own_expert(dtype, held):
    experts, pairs = bank(dtype, held)
    x, ids = randn(37, HIDDEN, seed=5, dtype=dtype), choices(37, 3, 0)
    got = experts.run_all(x, ids)
    assert got.shape == (37, 3, HIDDEN)
    for e, (both, down) in enumerate(pairs):
        tokens, places = (torch.from_numpy(a) for a in np.nonzero(ids == e))
        want = grouped.reference(x[tokens], both, down)
        assert worst(got[tokens, places], want) < TOLERANCE[dtype]


@every_kind
def test_an_experts_row_is_the_same_bits_alone_among_others_and_in_a_frame(dtype, held):
    experts, _ = bank(dtype, held)
    x, ids = randn(37, HIDDEN, seed=6, dtype=dtype), choices(37, 2, 1)
    whole = experts.run_all(x, ids)
    for tokens in ([0], [36, 3, 3], list(range(4, 25))):
        assert bits_equal(experts.run_all(x[tokens], ids[tokens]), whole[tokens])
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")[::2]  # a frame has some of the rows
    groups, counts = np.unique(flat[order], return_counts=True)
    got = experts.run(x, groups, counts, order // 2)
    assert bits_equal(got, whole.view(-1, HIDDEN)[torch.from_numpy(order)])


@every_kind
@pytest.mark.parametrize("kind", [1, 2])
def test_a_large_tile_and_its_smaller_rest_give_an_experts_rows(dtype, held, kind):
    """On a GPU large tiles are used where they give the bits of the small one."""
    experts, pairs = bank(dtype, held, 2)
    tile = grouped.tiles_of(held)[kind]
    x = randn(tile.rows + 37, HIDDEN, seed=7, dtype=dtype)
    for count in (3, tile.rows, tile.rows + 5, tile.rows + 37):
        ids, out = np.array([1]), torch.empty((count, HIDDEN), dtype=dtype, device=DEVICE)
        layout = grouped.host_layout(ids, np.array([count]), np.arange(count), tile.rows, DEVICE)
        grouped.grouped_mlp(x[:count], experts._tables, layout, out, tile)
        assert worst(out, grouped.reference(x[:count], *pairs[1])) < TOLERANCE[dtype]


@pytest.mark.parametrize("num_tokens", [1, 30, 90])
def test_the_shared_expert_among_the_routed_ones_is_the_same_bits(num_tokens):
    experts, _ = bank(BF16, WeightFormat.FP8)
    shared, _ = bank(BF16, WeightFormat.FP8, 1)
    x, ids = randn(num_tokens, HIDDEN, seed=8), choices(num_tokens, 3, 3)
    ids_there = torch.from_numpy(ids.astype(np.int32)).to(DEVICE)
    assert experts.can_share(shared)
    of_shared, routed = experts.run_with_shared(x, ids_there)
    assert bits_equal(routed, experts.run_routed(x, ids_there))
    assert bits_equal(of_shared, shared.run_routed(x, torch.zeros_like(ids_there[:, :1]))[:, 0])
    other, _ = bank(BF16, WeightFormat.INT8, 1)
    assert not experts.can_share(other)


@pytest.mark.parametrize(("num_tokens", "tile_rows"), [(1, 16), (30, 16), (90, 16), (90, 64)])
def test_layouts_of_small_and_large_steps_hold_every_row_once_in_tiles_of_its_expert(
    num_tokens, tile_rows
):
    ids = choices(num_tokens, 3, 2)
    layout = grouped.device_layout(
        torch.from_numpy(ids.astype(np.int32)).to(DEVICE), EXPERTS, tile_rows
    )
    row_out, row_token = layout.row_out.cpu().numpy(), layout.row_token.cpu().numpy()
    assert sorted(row_out) == list(range(ids.size))
    assert np.array_equal(row_token, row_out // 3)
    covered = []
    for expert, first, end in layout.tiles.cpu().tolist():
        if expert >= 0:
            assert first < end
            stop = min(end, first + tile_rows)
            assert (ids.reshape(-1)[row_out[first:stop]] == expert).all()
            covered += range(first, stop)
    assert sorted(covered) == list(range(ids.size))


def test_experts_of_other_shapes_or_beyond_the_last_are_refused():
    experts, _ = bank(BF16, WeightFormat.BF16, 1)
    with pytest.raises(ValueError, match="expert 3 of 1"):
        experts.add(3, *(stored(WIDTH, HIDDEN, BF16, WeightFormat.BF16),) * 3)
    good = stored(WIDTH, HIDDEN, BF16, WeightFormat.BF16)
    with pytest.raises(ValueError, match="expert 0"):
        experts.add(0, good, good, good)
    wrong = [stored(n, k, BF16, WeightFormat.BF16) for n, k in ((8, 96), (8, 96), (96, 8))]
    with pytest.raises(ValueError, match="unlike the first"):
        experts.add(0, *wrong)


@pytest.mark.parametrize("num_experts", [5, 128])
def test_the_gate_chooses_as_torch_does_ties_to_the_lowest_id(num_experts):
    from router.model.gate import choose_experts

    logits = randn(40, num_experts, seed=3, dtype=FP32)
    logits[7] = 1.0  # all equal
    logits[8, 1:4] = 9.0
    ids, weights = grouped.choose(logits, 4, 1.5)
    want = choose_experts(logits.cpu(), 4, 1.5)
    assert torch.equal(ids.long().cpu(), want.expert_ids)
    torch.testing.assert_close(weights.cpu(), want.weights, rtol=1e-5, atol=1e-6)
    alone, _ = grouped.choose(logits[11:12].contiguous(), 4, 1.5)
    assert torch.equal(alone, ids[11:12])


def test_the_gate_chooses_by_the_sum_of_parts():
    parts = randn(4, 9, 128, seed=4, dtype=FP32)
    whole = ((parts[0] + parts[1]) + parts[2]) + parts[3]
    got, want = grouped.choose(parts, 4, 1.0), grouped.choose(whole, 4, 1.0)
    assert torch.equal(got[0], want[0])
    assert bits_equal(got[1], want[1])


def test_a_token_that_is_no_number_still_gets_experts_that_exist():
    logits = torch.full((1, 8), float("nan"), device=DEVICE)
    ids, _ = grouped.choose(logits, 4, 1.0)
    assert ids.cpu().tolist() == [[0, 1, 2, 3]]


def test_padding_tokens_have_no_experts():
    logits = randn(3, EXPERTS, dtype=FP32)
    slots = torch.tensor([4, -1, 9], dtype=torch.int32, device=DEVICE)
    ids, _ = grouped.choose(logits, 2, 1.0, slots)
    assert ids[1].tolist() == [EXPERTS, EXPERTS]
    for repeat in (1, 60):  # in one program, and sorted
        tiles = grouped.device_layout(ids.repeat(repeat, 1), EXPERTS, 16).tiles.cpu()
        used = tiles[tiles[:, 0] >= 0]
        assert int((used[:, 2] - used[:, 1]).clamp_max(16).sum()) == 4 * repeat
