"""The same bits whatever happens: shards, neighbours, chunks, prefix hits, preemption, a kill."""

import os
import time
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import router.exchange.exchange as exchange_module
import router.model.torch_layers as torch_layers
from helpers.cluster import create_shm
from helpers.fixture_models import FIXTURES, checkpoint
from helpers.identity import SAMPLINGS, KillOne, digests, preempt_some
from router.exchange.grpc_transport import GrpcTransport
from shards.bank import ExpertBank
from shards.checkpoint.open import open_checkpoint
from shards.checkpoint.presets import preset
from shards.checkpoint.random_checkpoint import write_random_checkpoint
from shards.kernels import row_invariant
from shards.kernels.native.families import FAMILY_VARIABLE, TORCH
from shards.kernels.native.library import native_kernels

VARIANTS = {
    "alone": {"together": False},
    "grpc 1 shard": {"together": True, "shards": 1},
    "grpc 2 shards": {"together": True, "shards": 2},
    "grpc 4 shards": {"together": True, "shards": 4},
    "grpc 8 shards": {"together": True, "shards": 8},
    "shm 2 shards": {"together": True, "shards": 2, "create": create_shm},
    "shm 4 shards": {"together": True, "shards": 4, "create": create_shm},
    "small chunks": {"together": True, "max_chunk_tokens": 24, "max_batched_tokens": 48},
    "prefix hits": {"together": False, "salt": "shared"},
    "two threads": {"together": True, "threads": 2},
    "preempted": {"together": True, "disturb": preempt_some},
}


@lru_cache(maxsize=1)
def big_checkpoint(directory):
    path = Path(os.environ.get("GALERNE_1B", directory / "1b"))
    if not path.exists():
        write_random_checkpoint(path, preset("1b"), seed=4)
    return open_checkpoint(path), path


@contextmanager
def torch_computes():
    """No native kernels meanwhile, in gateways and shards of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FAMILY_VARIABLE, TORCH)
        native_kernels.cache_clear()
        yield
    native_kernels.cache_clear()


@pytest.fixture(
    scope="module", params=["tiny", "tiny by torch", pytest.param("1b", marks=pytest.mark.slow)]
)
def model(request, tmp_path_factory):
    with torch_computes() if request.param == "tiny by torch" else nullcontext():
        if request.param == "1b":
            yield big_checkpoint(tmp_path_factory.mktemp("big"))
        else:
            yield checkpoint(), FIXTURES / "tiny-hf-bf16"


@pytest.fixture(scope="module")
def baseline(model):
    """Local experts, all prompts together, no prefix hits."""
    return {s: digests(model[0], p, together=True) for s, p in SAMPLINGS.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_the_same_bits(model, baseline, sampling, variant):
    source, path = model
    fields = VARIANTS[variant] | ({"path": path} if "shards" in VARIANTS[variant] else {})
    assert digests(source, SAMPLINGS[sampling], **fields) == baseline[sampling]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("create", [GrpcTransport, create_shm])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_shard_killed_in_the_middle_costs_a_pause_and_no_bit(
    model, baseline, sampling, create, record_property
):
    source, path = model
    kill = KillOne()
    shards = {"shards": 4, "create": create, "path": path}
    got = digests(source, SAMPLINGS[sampling], together=True, disturb=kill, **shards)
    assert got == baseline[sampling]
    record_property("pause_s", kill.pause_s)
    assert kill.pause_s < 60.0  # the length is for the record; that it ends is the law


def test_the_law_breaks_without_row_padding(baseline_for_mutants, monkeypatch):
    """Red if the test could not fail: plain products of whatever row count."""

    def plain(x, weight, out, plan):
        return torch.mm(x, weight.t(), out=out)

    monkeypatch.setattr(row_invariant, "TILE", 1)
    monkeypatch.setattr(row_invariant, "_run", plain)
    source, want = baseline_for_mutants
    together = digests(source, SAMPLINGS["greedy"], together=True)
    alone = digests(source, SAMPLINGS["greedy"], together=False)
    assert together != alone
    assert alone != want or together != want


def combine_in_order(order_of):
    """A combine that adds rows in an order of its own and rounds every sum.

    Rounded once at the end, two orders of float32 sums rarely differ in a model this small.
    """

    def combine(shared, rows, weights):
        total, order = shared, order_of(rows)
        index = torch.arange(len(order))
        for pick in order.T:
            product = rows[index, pick].float() * weights[index, pick, None]
            total = (total.float() + product).to(shared.dtype)
        return total

    return combine


@pytest.mark.usefixtures("baseline_for_mutants")
def test_the_law_breaks_with_a_combine_in_arrival_order(monkeypatch):
    """Red if the test could not fail: rows summed as they come in from four shards."""
    ranks = {}
    fill, wait = exchange_module.ExpertExchange._fill, exchange_module._Away.wait

    def recording_fill(self, call, slots, places, rows):
        rank = ranks.setdefault(call, torch.zeros(len(self._buffers[call])))
        rank[torch.from_numpy(slots)] = rank.max() + 1
        fill(self, call, slots, places, rows)

    def ranked_wait(self):
        rows = wait(self)
        rows.arrival = ranks.pop(self._call).view(rows.shape[:2])
        return rows

    run = ExpertBank.run

    def first_shard_is_slow(self, *args):
        if self.holds(0, 0):
            time.sleep(0.03)  # the others answer first, on a busy machine too
        return run(self, *args)

    def digests_with(order_of):
        monkeypatch.setattr(torch_layers, "combine", combine_in_order(order_of))
        return digests(checkpoint(), SAMPLINGS["greedy"], together=True, shards=4)

    monkeypatch.setattr(ExpertBank, "run", first_shard_is_slow)
    monkeypatch.setattr(exchange_module.ExpertExchange, "_fill", recording_fill)
    monkeypatch.setattr(exchange_module._Away, "wait", ranked_wait)
    by_id = digests_with(lambda rows: torch.arange(rows.shape[1]).expand(rows.shape[:2]))
    by_arrival = digests_with(lambda rows: rows.arrival.argsort(dim=1, stable=True))
    assert by_arrival != by_id


@pytest.fixture
def baseline_for_mutants():
    source = checkpoint()
    with torch_computes():
        yield source, digests(source, SAMPLINGS["greedy"], together=True)
