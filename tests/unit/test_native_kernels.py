"""Every native kernel family that this machine has, against torch and against itself."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import ConfigError
from shards.kernels.experts import NativeExperts, TorchExperts
from shards.kernels.formats import FORMATS, WeightFormat
from shards.kernels.linear import Linear
from shards.kernels.native import library
from shards.kernels.native.library import LIBRARY, load
from shards.kernels.native.packing import pack, pack_gate_up
from shards.kernels.quantise import rounded

FAMILIES = load(LIBRARY)
PARAMS = [pytest.param(kernels, id=kernels.family) for kernels in FAMILIES]
every_format = pytest.mark.parametrize("held", FORMATS.values(), ids=lambda held: held.label)
every_family = pytest.mark.parametrize("kernels", PARAMS)
# Widths around superblocks and half superblocks, down to the smallest.
SHAPES = st.sampled_from([(2, 1), (64, 64), (96, 32), (192, 63), (256, 65), (130, 200)])


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(torch.bfloat16)


def times(kernels, x, packed, threads=1):
    out = x.new_empty((len(x), packed.num_rows))
    kernels.linear(x, packed, out, threads)
    return out


def test_the_machine_has_a_library_with_its_families():
    """Were the library missing, everything below would test nothing."""
    found = [kernels.family for kernels in FAMILIES]
    assert found[0] == "portable"
    flags = Path("/proc/cpuinfo").read_text()
    assert ("avx2" in found) == (" avx2 " in flags)
    assert ("avx512bf16" in found) == (" avx512_bf16 " in flags)


@every_family
@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, rows=st.integers(1, 40))
def test_linear_is_the_product_in_float64_but_for_rounding(kernels, shape, rows):
    k, n = shape
    x, weight = randn(rows, k, seed=1), randn(n, k, seed=2)
    want = x.double() @ weight.double().T
    got = times(kernels, x, pack(weight))
    scale = x.double().abs() @ weight.double().abs().T
    assert ((got.double() - want).abs() <= want.abs() / 250 + scale * 1e-6).all()


@every_family
@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), threads=st.integers(1, 3))
def test_a_row_does_not_depend_on_its_neighbours_or_on_threads(kernels, shape, seed, threads):
    k, n = shape
    x, packed = randn(33, k, seed=1), pack(randn(n, k, seed=2))
    want = times(kernels, x, packed)
    rng = np.random.default_rng(seed)
    pick = torch.from_numpy(rng.permutation(33)[: rng.integers(1, 34)])
    assert torch.equal(times(kernels, x[pick], packed, threads), want[pick])


@every_family
def test_linear_reads_and_writes_rows_wherever_they_lie(kernels):
    wide, packed = randn(5, 300), pack(randn(70, 100))
    out = torch.zeros((5, 90), dtype=torch.bfloat16)
    kernels.linear(wide[:, 50:150], packed, out[:, 10:80], 1)
    assert torch.equal(out[:, 10:80], times(kernels, wide[:, 50:150].clone(), packed))
    assert not out[:, :10].any()
    assert not out[:, 80:].any()


def draw_groups(rng, num_tokens, num_experts):
    counts = rng.integers(0, 9, size=rng.integers(1, num_experts + 1))
    ids = rng.permutation(num_experts)[: len(counts)]
    return ids, counts, rng.integers(0, num_tokens, counts.sum())


def filled(experts, shape, num_experts=6):
    hidden, width = shape
    for i in range(num_experts):
        gate, up = randn(width, hidden, seed=3 * i), randn(width, hidden, seed=3 * i + 1)
        experts.add(i, gate, up, randn(hidden, width, seed=3 * i + 2) / 8)
    return experts


@every_family
@every_format
@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(64, 32), (96, 40), (130, 7)]), seed=st.integers(0, 99))
def test_experts_agree_with_torch(kernels, held, shape, seed):
    rng = np.random.default_rng(seed)
    ids, counts, row_token = draw_groups(rng, 11, 6)
    x = randn(11, shape[0], seed=seed) / 4
    native = filled(NativeExperts(kernels, 6, held=held), shape).run(x, ids, counts, row_token)
    want = filled(TorchExperts(held=held), shape).run(x, ids, counts, row_token).float()
    # One bf16 rounding of the active value may fall the other way, then the sum's own. Rows have 8
    # bits where weights have less than 16: torch's have not.
    share = 0.02 if held is WeightFormat.BF16 else 0.05
    bound = share * want.abs() + share * (want.abs().max() if want.numel() else 0)
    assert ((native.float() - want).abs() <= bound).all()


@every_format
@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(64, 32), (96, 40), (130, 7)]), seed=st.integers(0, 99))
def test_families_differ_by_a_rounding_at_most(held, shape, seed):
    rng = np.random.default_rng(seed)
    ids, counts, row_token = draw_groups(rng, 11, 6)
    x = randn(11, shape[0], seed=seed) / 4
    first, *others = (
        filled(NativeExperts(kernels, 6, held=held), shape).run(x, ids, counts, row_token).float()
        for kernels in FAMILIES
    )
    for other in others:
        largest = first.abs().max() if first.numel() else 0
        assert ((other - first).abs() <= 0.02 * first.abs() + 0.01 * largest).all()


@every_format
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_all_experts_of_all_tokens_are_the_rows_of_groups(held, seed):
    rng = np.random.default_rng(seed)
    x = randn(9, 64, seed=seed)
    experts = filled(NativeExperts(FAMILIES[-1], 6, 2, held), (64, 32))
    chosen = np.sort(np.stack([rng.permutation(6)[:3] for _ in range(9)]), axis=1)
    rows = experts.run_all(x, chosen)
    for t, ids in enumerate(chosen):
        want = experts.run(x, ids, np.ones(3, dtype=np.int64), np.full(3, t))
        assert torch.equal(rows[t], want)


@pytest.mark.parametrize("held", [WeightFormat.INT8, WeightFormat.INT4])
def test_weights_of_less_bits_are_near_the_bf16_ones(held):
    weight = randn(70, 200)
    error = (rounded(weight, held).float() - weight.float()).norm() / weight.float().norm()
    assert error < {WeightFormat.INT8: 0.01, WeightFormat.INT4: 0.12}[held]
    exact = torch.tensor([[-127.0, 64.0, 3.0, 127.0]] * 70).to(torch.bfloat16)
    if held is WeightFormat.INT8:
        assert torch.equal(rounded(exact, held), exact)


@every_family
@every_format
@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from([(64, 32), (96, 40), (130, 7)]), seed=st.integers(0, 99))
def test_an_experts_row_depends_on_its_token_alone(kernels, held, shape, seed):
    """Alone, or among all rows of any groups, with any number of threads."""
    rng = np.random.default_rng(seed)
    ids, counts, row_token = draw_groups(rng, 11, 6)
    x = randn(11, shape[0], seed=seed)
    together = filled(NativeExperts(kernels, 6, 2, held), shape)
    alone = filled(NativeExperts(kernels, 6, held=held), shape)
    rows = together.run(x, ids, counts, row_token)
    for row, (expert, token) in enumerate(zip(np.repeat(ids, counts), row_token, strict=True)):
        one = np.array([1])
        got = alone.run(x[token][None], np.array([expert]), one, np.array([0]))
        assert torch.equal(got[0], rows[row])


@every_family
def test_not_a_number_and_infinity_go_through(kernels):
    x = randn(3, 64)
    x[1, 5] = float("nan")
    x[2, 5] = float("inf")
    out = times(kernels, x, pack(torch.ones((64, 64), dtype=torch.bfloat16)))
    assert out[0].isfinite().all()
    assert out[1].isnan().all()
    assert out[2].isposinf().all()


@every_family
def test_whatever_does_not_fit_is_refused_and_nothing_crashes(kernels):
    packed = pack(randn(70, 100))
    x, out = randn(4, 100), torch.empty((4, 70), dtype=torch.bfloat16)
    for bad_x, bad_out, said in [
        (randn(4, 98), out, "x: rows of 100"),
        (x, out[:3], r"out: \[4, 70\]"),
        (x, out[:, :65], r"out: \[4, 70\]"),
        (x.float(), out, "x: a torch.bfloat16"),
        (x, out.double(), "out: a torch.bfloat16"),
        (x, torch.empty((70, 4), dtype=torch.bfloat16).T, "out: rows"),
        (x[0], out, "x: a torch.bfloat16"),
    ]:
        with pytest.raises(ValueError, match=said):
            kernels.linear(bad_x, packed, bad_out, 1)
    with pytest.raises(ValueError, match="sizes"):
        kernels.linear(x, packed, out, 0)


def test_weights_that_the_kernels_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="weight: a bfloat16 matrix with an even"):
        pack(randn(4, 7))
    with pytest.raises(ValueError, match="gate: "):
        pack_gate_up(randn(4, 8).float(), randn(4, 8))
    with pytest.raises(ValueError, match="up: shape"):
        pack_gate_up(randn(4, 8), randn(5, 8))


@pytest.mark.parametrize(
    ("dtype", "inputs"), [(torch.bfloat16, 64), (torch.bfloat16, 63), (torch.float32, 64)]
)
def test_linear_of_any_dtype_and_size_multiplies(dtype, inputs):
    weight, x = randn(40, inputs).to(dtype), randn(19, inputs, seed=1).to(dtype)
    got = Linear(weight, 2)(x)
    want = x.double() @ weight.double().T
    torch.testing.assert_close(got.double(), want, rtol=1e-2, atol=1e-2)
    assert got.dtype == torch.float32


@every_family
@pytest.mark.parametrize(
    ("counts", "row_token", "said"),
    [([2, 1], [0, 3, 1], "token"), ([2, 1], [0, -1, 1], "token"), ([2, 2], [0, 1, 2], "sizes"),
     ([1, 1], [0, 1, 2], "sizes"), ([-1, 4], [0, 1, 2], "sizes"), ([4, -1], [0, 1, 2], "sizes"),
     ([3], [0, 1, 2], "groups")],
)  # fmt: skip
def test_experts_refuse_rows_that_do_not_add_up(kernels, counts, row_token, said):
    experts = filled(NativeExperts(kernels, 6), (64, 32))
    ids = np.array([4, 2])[: len(counts)] if said != "groups" else np.array([4, 2])
    with pytest.raises(ValueError, match=said):
        experts.run(randn(3, 64), ids, np.array(counts), np.array(row_token))


@every_family
def test_experts_of_other_shapes_are_refused(kernels):
    experts = filled(NativeExperts(kernels, 6), (64, 32))
    with pytest.raises(ValueError, match="expert 5"):
        experts.add(5, randn(31, 64), randn(31, 64), randn(64, 31))
    with pytest.raises(ValueError, match="expert 6 of 6"):
        experts.add(6, randn(32, 64), randn(32, 64), randn(64, 32))
    with pytest.raises(ValueError, match="rows of 64"):
        experts.run(randn(3, 62), np.array([1]), np.array([1]), np.array([0]))


@every_family
def test_an_expert_that_was_never_added_is_refused(kernels):
    experts = filled(NativeExperts(kernels, 9), (64, 32))
    with pytest.raises(ValueError, match="not there"):
        experts.run(randn(3, 64), np.array([7]), np.array([1]), np.array([0]))


@every_family
def test_callers_at_the_same_time_and_experts_named_twice_change_nothing(kernels):
    experts = filled(NativeExperts(kernels, 6, num_threads=2), (96, 40))
    ids, counts = np.array([2, 5, 2]), np.array([20, 30, 7])
    batches = [(randn(11, 96, seed=i), np.arange(57) % 11) for i in range(8)]
    alone = [experts.run(x, ids, counts, rows) for x, rows in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda b: experts.run(b[0], ids, counts, b[1]), batches * 5))
    assert all(torch.equal(got, alone[i % 8]) for i, got in enumerate(together))


def test_the_variable_picks_a_family_and_refuses_what_is_not_here(monkeypatch):
    uncached = library.native_kernels.__wrapped__
    monkeypatch.setenv("GALERNE_KERNELS", "portable")
    assert uncached().family == "portable"
    monkeypatch.setenv("GALERNE_KERNELS", "torch")
    assert uncached() is None
    monkeypatch.setenv("GALERNE_KERNELS", "sse9")
    with pytest.raises(ConfigError, match="portable"):
        uncached()


@pytest.mark.parametrize("content", [None, b"no library"])
def test_without_a_library_torch_computes_and_one_line_says_so(
    content, monkeypatch, tmp_path, caplog
):
    path = tmp_path / "library.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(library, "LIBRARY", path)
    monkeypatch.delenv("GALERNE_KERNELS", raising=False)
    assert library.native_kernels.__wrapped__() is None
    assert len([r.message for r in caplog.records if "native_kernels_missing" in r.message]) == 1
    monkeypatch.setenv("GALERNE_KERNELS", "torch")
    assert library.native_kernels.__wrapped__() is None


def test_one_openmp_serves_torch_and_the_kernels():
    code = (
        "import torch; from shards.kernels.native.library import native_kernels as n; n();"
        "print(len({l.split()[-1] for l in open('/proc/self/maps') if 'libgomp' in l}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
