"""Adapters by the GPU's kernels: what merged weights would give, and no bit of any other row."""

import numpy as np
import pytest
import torch

from galerne.adapters import MAX_ADAPTERS
from helpers.adapters import Merged, one_of_each_kind, with_adapters
from helpers.triton_device import DEVICE, bits_equal, randn, worst
from helpers.triton_models import bank, blocks_for, checkpoint, run_prompt, runner
from router.exchange.local import LocalExperts
from router.model.device_experts import DeviceExperts
from router.model.runner import SequenceChunk
from shards.adapters.low_rank import LowRank
from shards.kernels.gpu import low_rank
from shards.kernels.gpu.grouped import Layout, host_layout
from shards.kernels.gpu.low_rank import ROWS, ChangeTable
from shards.kernels.gpu.step_adapters import Slots

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16, FP32 = torch.bfloat16, torch.float32
SOURCE = checkpoint()
CONFIG = SOURCE.config
PROMPT = np.random.default_rng(1).integers(20, CONFIG.vocab_size, 24).tolist()


def low(num_out, num_in, rank, seed, scale=0.5):
    down, up = randn(rank, num_in, seed=seed), randn(num_out, rank, seed=seed + 1)
    return LowRank(down.cpu().float(), up.cpu().float(), scale)


def layout_of(numbers):
    """Rows with a number of 0 or more, grouped by it."""
    numbers = np.array(numbers)
    rows = np.flatnonzero(numbers >= 0)
    order = rows[np.argsort(numbers[rows], kind="stable")]
    used, counts = np.unique(numbers[rows], return_counts=True)
    laid = host_layout(used, counts, order, ROWS, DEVICE)
    return laid._replace(row_out=laid.row_token)


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_rows_get_what_their_own_change_adds_and_rows_without_one_keep_their_bits(dtype):
    changes = {2: low(70, 40, 3, 1), 5: low(70, 40, 20, 3)}
    table = ChangeTable(8, dtype, DEVICE)
    for number, change in changes.items():
        table.put_low_rank(number, change)
    numbers = [-1, 2, 5, 5, -1, 7, *[2] * 20]  # nothing is known of 7
    x, before = randn(26, 40, dtype=dtype), randn(26, 70, seed=9, dtype=dtype)
    y = before.clone()
    table.add(y[:, None], x[:, None], layout_of(numbers))
    for number, change in changes.items():
        rows = [i for i, n in enumerate(numbers) if n == number]
        want = before[rows].float() + low_rank.reference(x[rows], change)
        assert worst(y[rows], want) < {BF16: 0.02, FP32: 1e-5}[dtype]
    rest = [i for i, n in enumerate(numbers) if n in (-1, 7)]
    assert bits_equal(y[rest], before[rest])
    some = [6, 2, 11]
    alone = before[some].clone()
    table.add(alone[:, None], x[some][:, None], layout_of([numbers[i] for i in some]))
    assert bits_equal(alone, y[some])


@pytest.mark.parametrize("which", ["first", "second"])
def test_heads_may_have_matrices_of_their_own(which):
    heads, rank, num_in, num_out = 3, 4, 24, 40
    first = randn(heads if which == "first" else 1, rank, num_in, seed=1, dtype=FP32)
    second = randn(heads if which == "second" else 1, num_out, rank, seed=2, dtype=FP32)
    of_each = {f"{which}_of_each": True}
    table = ChangeTable(4, FP32, DEVICE, **of_each)
    table.put(1, first, second, 0.25)
    x, factors = randn(5, heads, num_in, seed=3, dtype=FP32), randn(5, seed=4, dtype=FP32)
    y = torch.zeros((5, heads, num_out + 8), device=DEVICE)
    table.add(y[..., :num_out], x, layout_of([1, -1, 1, 1, 1]), factors)
    hidden = torch.einsum("thk,hrk->thr", x, first.expand(heads, -1, -1))
    want = torch.einsum("thr,hnr->thn", hidden, second.expand(heads, -1, -1)) * 0.25
    want = want * factors[:, None, None]
    want[1] = 0
    assert worst(y[..., :num_out], want) < 1e-5
    assert (y[..., num_out:] == 0).all()


def test_a_change_that_is_forgotten_changes_nothing():
    table = ChangeTable(2, BF16, DEVICE)
    table.put_low_rank(0, low(16, 16, 4, 1))
    table.put_low_rank(1, low(16, 16, 40, 2))
    table.remove(1)
    assert table.max_rank == 48  # what is recorded has room for as much
    y = randn(2, 16)
    before = y.clone()
    at = torch.arange(2, dtype=torch.int32, device=DEVICE)
    tiles = torch.tensor([[1, 0, 2]], dtype=torch.int32, device=DEVICE)
    table.add(y[:, None], randn(2, 16, seed=1)[:, None], Layout(at, at, tiles))
    assert bits_equal(y, before)


def test_adapters_take_the_lowest_free_slot_and_no_more_than_there_are():
    slots = Slots(MAX_ADAPTERS)
    assert [slots.take(key) for key in (70, 80, 90, 80)] == [0, 1, 2, 1]
    assert slots.release(80) == 1
    assert slots.release(80) is None
    assert 80 not in slots
    assert slots.take(100) == 1
    for key in range(1000, 1000 + MAX_ADAPTERS - 3):
        slots.take(key)
    with pytest.raises(ValueError, match="more than 64 adapters"):
        slots.take(5)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return one_of_each_kind(tmp_path_factory.mktemp("adapters"), CONFIG)


def logits_of(model, adapter=0):
    """Of a prompt in a long, a short and a one-token chunk."""
    blocks, parts = blocks_for(len(PROMPT)), []
    for start, stop in ((0, 18), (18, 23), (23, 24)):
        num = stop - start
        parts.append(
            model.run(0, [SequenceChunk(PROMPT, start, num, blocks, num, adapter=adapter)])
        )
    return torch.from_numpy(np.concatenate(parts))


def error(got, want):
    return float((got - want).norm() / want.norm())


@pytest.fixture(scope="module")
def plain():
    return {dtype: logits_of(runner(SOURCE, dtype)) for dtype in (FP32, BF16)}


@pytest.fixture(scope="module")
def merged(adapters):
    return {n: logits_of(runner(Merged(SOURCE, a), FP32)) for n, a in adapters.items()}


@pytest.mark.parametrize("name", ["all", "dense", "routed"])
def test_float32_rows_are_those_of_the_merged_weights(adapters, merged, plain, name):
    adapter = adapters[name]
    model = with_adapters(runner(SOURCE, FP32), [adapter])
    assert error(logits_of(model, adapter.key), merged[name]) < 1e-4
    assert error(plain[FP32], merged[name]) > 0.03  # the adapter does something


@pytest.mark.parametrize("name", ["all", "dense", "routed"])
def test_bf16_rows_are_as_near_to_the_merged_weights_as_the_model_is_to_its_own(
    adapters, merged, plain, name
):
    adapter = adapters[name]
    model = with_adapters(runner(SOURCE, BF16), [adapter])
    own = error(plain[BF16], plain[FP32])
    assert error(logits_of(model, adapter.key), merged[name]) < 1.5 * own
    assert bits_equal(logits_of(model), plain[BF16])


PROMPTS = [PROMPT[:7], PROMPT[5:14], PROMPT[9:12], PROMPT[3:5]]


def together(model, keys):
    """Logits of four sequences: prompts together, then two decode steps, the second reordered."""
    tables = [blocks_for(16, 1 + i) for i in range(4)]
    steps = []
    for extra in ((), (5,), (5, 9)):
        whole = [[*p, *extra] for p in PROMPTS]
        start = [len(p) - 1 if extra else 0 for p in whole]
        chunks = [
            SequenceChunk(w, s, len(w) - s, t, 1, adapter=k)
            for w, s, t, k in zip(whole, start, tables, keys, strict=True)
        ]
        order = [3, 1, 0, 2] if len(extra) == 2 else [0, 1, 2, 3]
        got = model.run(0, [chunks[i] for i in order])
        steps.append(got[np.argsort(order)])
    return torch.from_numpy(np.stack(steps, axis=1))  # [4, steps, V]


def alone(model, keys):
    """The same, every sequence by itself."""
    found = []
    for prompt, key in zip(PROMPTS, keys, strict=True):
        blocks, parts = blocks_for(16, 30), []
        for extra, start in (((), 0), ((5,), len(prompt)), ((5, 9), len(prompt) + 1)):
            whole = [*prompt, *extra]
            chunk = SequenceChunk(whole, start, len(whole) - start, blocks, 1, adapter=key)
            parts.append(model.run(0, [chunk])[0])
        found.append(np.stack(parts))
    return torch.from_numpy(np.stack(found))


@pytest.fixture(scope="module")
def keys(adapters):
    return [adapters["all"].key, 0, adapters["routed"].key, adapters["dense"].key]


@pytest.fixture(scope="module")
def by_itself(adapters, keys):
    return alone(with_adapters(runner(SOURCE, BF16), adapters.values()), keys)


def test_neighbours_with_other_adapters_or_none_change_no_bit(adapters, keys, by_itself):
    model = with_adapters(runner(SOURCE, BF16), adapters.values())
    got = together(model, keys)
    assert bits_equal(got, by_itself)
    without = together(runner(SOURCE, BF16), [0] * 4)
    assert bits_equal(got[1], without[1])
    for i in (0, 2, 3):
        assert not torch.equal(got[i], without[i])


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_experts_elsewhere_give_the_bits_of_experts_on_the_device(
    adapters, keys, by_itself, micro_batches
):
    of = bank(SOURCE, BF16)
    away = DeviceExperts(LocalExperts(of, ["shard-0"]), DEVICE)
    model = runner(SOURCE, BF16, experts=away, micro_batches=micro_batches)
    for adapter in adapters.values():
        of.add_adapter(adapter)
        model.decoder.add_adapter(adapter)
    assert bits_equal(together(model, keys), by_itself)


def test_rows_of_a_frame_have_the_bits_of_whole_tokens(adapters):
    of = bank(SOURCE, BF16)
    for adapter in adapters.values():
        of.add_adapter(adapter)
    x = randn(9, CONFIG.hidden_size)
    rng = np.random.default_rng(0)
    ids = np.array([np.sort(rng.permutation(CONFIG.num_experts)[:3]) for _ in range(9)])
    names = ["all", "", "routed", "all", "", "dense", "routed", "all", ""]
    keys = np.array([adapters[n].key if n else 0 for n in names], dtype=np.uint64)
    whole = of.run_all(1, x, ids, keys)
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")[::2]
    groups, counts = np.unique(flat[order], return_counts=True)
    got = of.run(1, x, groups, counts, order // 3, keys)
    assert bits_equal(got, whole.view(-1, CONFIG.hidden_size)[torch.from_numpy(order)])
    none = of.run_all(1, x, ids)
    unchanged = [i for i, n in enumerate(names) if n in ("", "dense")]
    assert bits_equal(whole[unchanged], none[unchanged])
    assert not torch.equal(whole[0], none[0])


def test_experts_that_come_after_an_adapter_have_its_changes_and_those_that_go_have_none(adapters):
    x, ids = randn(4, CONFIG.hidden_size), np.array([[3, 9]] * 4)
    adapter = adapters["all"]
    keys = np.array([adapter.key, 0, 0, adapter.key], dtype=np.uint64)
    whole = bank(SOURCE, BF16)
    plain = whole.run_all(0, x, ids)
    whole.add_adapter(adapter)
    late = bank(SOURCE, BF16)
    late.add_adapter(adapter)
    late.drop({0: [9]})
    late.load({0: [9]})
    got = whole.run_all(0, x, ids, keys)
    assert bits_equal(late.run_all(0, x, ids, keys), got)
    assert bits_equal(got[1:3], plain[1:3])
    assert not torch.equal(got[0], plain[0])
    whole.drop_adapter(adapter.key)
    whole.layers[0].put_change(77, 5, adapter.routed[0, 5])  # takes the slot; not of 3 or 9
    one = np.array([77] * 4, dtype=np.uint64)
    assert bits_equal(whole.layers[0].run_all(x, ids, one), plain)


def test_an_adapter_that_is_unloaded_leaves_nothing_to_the_next_one(adapters, by_itself):
    model = with_adapters(runner(SOURCE, BF16), [adapters["all"]])
    model.decoder.drop_adapter(adapters["all"].key)
    model.exchange.bank.drop_adapter(adapters["all"].key)
    with_adapters(model, [adapters["routed"]])
    got = run_prompt(model, PROMPTS[2], num_logits=1, adapter=adapters["routed"].key)
    assert bits_equal(torch.from_numpy(got[0]), by_itself[2, 0])
