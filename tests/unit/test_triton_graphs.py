"""Recorded steps: the bits of launched ones, whatever was recorded first and replayed in between.

Recorded and replayed by ``helpers.fake_graphs``, which holds steps to the rules of CUDA's graphs.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.adapters import opened, with_adapters
from helpers.triton_device import DEVICE, HAS_GPU, randn

if HAS_GPU:
    pytest.skip("a GPU has graphs of its own", allow_module_level=True)

from cluster.doctor.device_times import ExpertRuns
from helpers.fake_graphs import FakeCuda
from helpers.triton_models import bank, blocks_for, runner
from router.exchange.local import LocalExperts
from router.model import triton_decode, triton_step
from router.model.batch import Chunk, build_batch
from router.model.runner import SequenceChunk
from router.model.triton_decode import DecodeGraphs
from router.model.triton_step import by_length, tokens_alone
from shards.adapters.adapter import Adapter
from shards.adapters.low_rank import LowRank
from shards.checkpoint.presets import preset
from shards.checkpoint.synthetic import SyntheticCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

BF16 = torch.bfloat16
CONFIG = replace(preset("tiny"), num_layers=1, num_experts=8, num_experts_per_tok=2, vocab_size=256)
SOURCE = SyntheticCheckpoint(CONFIG, 1, DEVICE)
IDS = np.random.default_rng(3).integers(20, 250, 700).tolist()


@pytest.fixture
def fake(monkeypatch):
    return FakeCuda(monkeypatch)


class Pair:
    """The same model twice: steps recorded, and launched kernel by kernel."""

    def __init__(self):
        self.recorded, self.launched = (runner(SOURCE, BF16) for _ in range(2))
        self.recorded.decoder._layers.graphs = DecodeGraphs(records=True)
        assert self.launched.decoder._layers.graphs is None

    @property
    def graphs(self):
        return self.recorded.decoder._layers.graphs

    def step(self, *chunks):
        """Logits of ``(sequence, start, tokens, adapter)`` in a step, the same by both."""
        step = [
            SequenceChunk(
                IDS[seq:],
                start,
                n,
                blocks_for(640 if start > 500 else 40, 1 + 3 * seq),
                n,
                adapter=adapter,
            )
            for seq, start, n, adapter in chunks
        ]
        got, want = (model.run(0, step) for model in (self.recorded, self.launched))
        assert np.array_equal(got.view(np.int32), want.view(np.int32)), chunks
        return got

    def fill(self, *adapters):
        """Prompts of three sequences."""
        a, b, c = adapters or (0, 0, 0)
        self.step((0, 0, 12, a), (1, 0, 20, b), (2, 0, 11, c))

    def each(self, change):
        for model in (self.recorded, self.launched):
            change(model)


def test_recorded_steps_have_the_bits_of_launched_ones(fake):
    """One token each, guesses to verify, both together; other tokens, rows and positions."""
    pair = Pair()
    pair.fill()
    assert fake.captures == 0  # long prompts are launched
    for step in (
        [(0, 12, 1, 0), (1, 20, 1, 0), (2, 11, 1, 0)],
        [(2, 12, 1, 0), (0, 13, 1, 0)],
        [(1, 21, 1, 0), (0, 14, 1, 0), (2, 13, 1, 0)],
        [(0, 15, 3, 0), (1, 22, 1, 0), (2, 14, 2, 0)],
        [(1, 23, 4, 0), (2, 15, 1, 0), (0, 16, 2, 0)],
        [(0, 18, 1, 0), (2, 600, 1, 0)],
        [(2, 12, 1, 0), (0, 13, 1, 0)],
    ):
        pair.step(*step)
    assert fake.captures == len(pair.graphs) == 4  # of 4, 2 and 8 tokens; of 2 with 4 segments
    assert fake.replays == 7
    assert fake.num_pools == 1


def test_recorded_steps_take_adapters_as_they_come(fake, tmp_path):
    """Others in the same graph, in other rows, or none; loaded and dropped in between."""
    kinds = {
        "all": dict(seed=1),
        "dense": dict(seed=2, rank=5, routed=False),
        "routed": dict(seed=3, rank=3, dense=False),
    }
    made = {name: opened(tmp_path / name, CONFIG, **how) for name, how in kinds.items()}
    a, d, r = (made[name].key for name in kinds)
    pair = Pair()
    pair.each(lambda model: with_adapters(model, made.values()))
    pair.fill(a, 0, r)
    plain = pair.step((0, 12, 1, 0), (1, 20, 1, 0), (2, 11, 1, 0))
    both = pair.step((0, 12, 1, a), (1, 20, 1, 0), (2, 11, 1, r))
    assert not np.array_equal(plain[0], both[0])
    assert np.array_equal(plain[1], both[1])
    pair.step((2, 11, 1, d), (1, 20, 1, a), (0, 12, 1, a))
    pair.step((1, 20, 1, 0), (0, 12, 1, 0), (2, 11, 1, d))
    pair.step((1, 20, 2, r), (0, 12, 1, 0))
    assert (fake.captures, fake.replays) == (2, 5)
    other = opened(tmp_path / "other", CONFIG, seed=7)

    def swap(model):
        model.decoder.drop_adapter(a)
        model.exchange.bank.drop_adapter(a)
        with_adapters(model, [other])

    pair.each(swap)  # takes the place of one of its rank: what is recorded holds
    pair.step((0, 12, 1, other.key), (1, 20, 1, 0), (2, 11, 1, r))
    assert fake.captures == 2
    wide = opened(tmp_path / "wide", CONFIG, seed=8, rank=20)
    pair.each(lambda model: with_adapters(model, [wide]))
    pair.step((0, 12, 1, wide.key), (1, 20, 1, d), (2, 11, 1, r))
    assert fake.captures == 3
    assert len(pair.graphs) == 2  # the one for smaller ranks is gone
    hidden, inner = CONFIG.hidden_size, CONFIG.num_heads * CONFIG.v_head_dim
    change = LowRank(randn(40, inner, dtype=torch.float32), randn(hidden, 40, seed=1), 0.5)
    only = Adapter(
        id="f" * 16, rank=40, dense={(0, "o"): change}, shared={}, routed={}, num_bytes=0
    )
    pair.each(lambda model: with_adapters(model, [only]))
    pair.step((0, 12, 1, only.key), (1, 20, 1, d), (2, 11, 1, r))
    assert fake.captures == 4


def test_other_experts_have_graphs_of_their_own(fake):
    pair = Pair()
    pair.fill()
    step = (0, 12, 1, 0), (1, 20, 1, 0)
    before = pair.step(*step)
    others = SyntheticCheckpoint(CONFIG, 2, DEVICE)

    def move(model):
        model.exchange = LocalExperts(bank(others, BF16), ["shard-0"])

    pair.each(move)
    assert not np.array_equal(pair.step(*step), before)
    assert fake.captures == 2
    assert len(pair.graphs) == fake.num_pools == 1


def test_tokens_of_short_chunks_attend_by_themselves_where_partial_results_have_room(monkeypatch):
    cache = runner(SOURCE, BF16).cache
    lengths, blocks = (1, 9, 10, 2), list(range(1, 40))
    batch = build_batch([Chunk([5] * n, 500, blocks, 0) for n in lengths], cache)
    short, longer = by_length(batch)
    assert ([c.num_tokens for c in short], [c.num_tokens for c in longer]) == ([9, 2], [10])
    alone = tokens_alone(batch, short)
    assert alone.rows.tolist() == [0, *range(1, 10), 20, 21]
    assert alone.positions.tolist() == [500, *range(500, 509), 500, 501]
    assert (alone.tables[:, :31] == blocks[:31]).all()
    monkeypatch.setattr(triton_step, "MOST_PARTS", 11)
    assert by_length(batch) == ([], list(batch.prefills))


def test_no_more_graphs_are_held_than_may_be(fake, monkeypatch):
    monkeypatch.setattr(triton_decode, "MOST_GRAPHS", 2)
    pair = Pair()
    one, two, three = ([(i, 3, 1, 0) for i in range(n)] for n in (1, 2, 3))
    for step in (one, two, one, three, one, two):
        pair.step(*step)
        assert len(pair.graphs) <= 2
    assert fake.captures == 4  # of two tokens twice: it was not needed for longest


@torch.inference_mode()
def test_experts_alone_are_recorded_as_they_are_launched(fake):
    of = bank(SOURCE, BF16)
    routing = [np.random.default_rng(1).permutation(CONFIG.num_experts)[None, :2] for _ in range(1)]
    routing = [np.sort(ids, axis=1).repeat(3, axis=0) for ids in routing]
    runs = ExpertRuns([of.layers[0]], routing, CONFIG.hidden_size, records=True)
    assert fake.captures == 1
    assert runs.seconds() > 0
    assert runs.seconds() > 0
    assert fake.replays == 2
    wanted = of.run_all(0, runs._x, routing[0])
    assert torch.equal(runs._recorded[1][0], wanted)
