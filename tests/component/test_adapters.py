"""Adapters compute what merged weights would, and leave every other row its bits."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from helpers.adapters import Merged, one_of_each_kind, with_adapters
from helpers.cluster import create_shm, remote_exchange
from helpers.fixture_models import checkpoint, local_experts, runner
from helpers.gateways import engine, request
from helpers.identity import Probe
from router.exchange.grpc_transport import GrpcTransport
from router.model.runner import SequenceChunk
from shards.bank import AdapterMissingError
from shards.kernels.formats import WeightFormat
from shards.kernels.native.families import FAMILY_VARIABLE, TORCH
from shards.kernels.native.library import native_kernels
from shards.shm.rings import ring_library

SOURCE = checkpoint()
CONFIG = SOURCE.config
PROMPT = tuple(np.random.default_rng(1).integers(20, CONFIG.vocab_size, 70).tolist())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return one_of_each_kind(tmp_path_factory.mktemp("adapters"), CONFIG)


@pytest.fixture
def by_torch(monkeypatch):
    monkeypatch.setenv(FAMILY_VARIABLE, TORCH)
    native_kernels.cache_clear()
    yield
    native_kernels.cache_clear()


def logits_of(model, adapter=0):
    """Of a prompt in a long, a short and a one-token chunk."""
    blocks, parts = list(range(1, 8)), []
    for start, stop in ((0, 50), (50, 69), (69, 70)):
        num = stop - start
        chunk = SequenceChunk(PROMPT, start, num, blocks, num, adapter=adapter)
        parts.append(model.run(0, [chunk]))
    return torch.from_numpy(np.concatenate(parts))


def error(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", ["all", "dense", "routed"])
def test_float32_rows_are_those_of_the_merged_weights(adapters, name):
    adapter = adapters[name]
    model = with_adapters(runner(SOURCE, torch.float32), [adapter])
    merged = logits_of(runner(Merged(SOURCE, adapter), torch.float32))
    assert error(logits_of(model, adapter.key), merged) < 1e-4
    assert error(logits_of(model), merged) > 0.03  # the adapter does something


@pytest.mark.parametrize("name", ["all", "dense", "routed"])
@pytest.mark.parametrize("held", [WeightFormat.BF16, WeightFormat.INT8])
def test_bf16_rows_are_as_near_to_the_merged_weights_as_the_model_is_to_its_own(
    adapters, name, held
):
    if held is not WeightFormat.BF16 and native_kernels() is None:
        pytest.skip("torch holds bf16 only")
    adapter = adapters[name]
    experts = local_experts(SOURCE, torch.bfloat16, held=held)
    model = with_adapters(runner(SOURCE, torch.bfloat16, exchange=experts), [adapter])
    merged = logits_of(runner(Merged(SOURCE, adapter), torch.float32))
    own = error(logits_of(model), logits_of(runner(SOURCE, torch.float32)))
    assert error(logits_of(model, adapter.key), merged) < 1.5 * own


@pytest.mark.usefixtures("by_torch")
def test_bf16_rows_by_torch_are_near_the_merged_weights_too(adapters):
    adapter = adapters["all"]
    model = with_adapters(runner(SOURCE, torch.bfloat16), [adapter])
    merged = logits_of(runner(Merged(SOURCE, adapter), torch.float32))
    own = error(logits_of(model), logits_of(runner(SOURCE, torch.float32)))
    assert error(logits_of(model, adapter.key), merged) < 1.5 * own


def digests(adapters, requests, *, together, shards=0, create=GrpcTransport, micro=1, **settings):
    """Digest of every (id, adapter, prompt), and the tokens."""
    probes = []
    local = None if shards else local_experts(SOURCE, torch.bfloat16, settings.get("threads", 1))
    wire = remote_exchange(shards, create=create) if shards else nullcontext((local, None))

    def wrap(inner):
        model = inner.model
        model.num_micro_batches = micro
        for adapter in adapters:
            for host in () if hosts is None else hosts.hosts.values():
                host._bank.add_adapter(adapter)
            if local is not None:
                local.bank.add_adapter(adapter)
            model.decoder.add_adapter(adapter)
        probes.append(Probe(inner))
        return probes[0]

    with wire as (exchange, hosts), engine(SOURCE, exchange=exchange, wrap=wrap, **settings) as e:
        made, collector = e
        for name, adapter, prompt in requests:
            wanted = request(name, prompt, max_tokens=6, adapter=adapter, cache_salt=name)
            made.submit(wanted).result(60)
            if not together:
                collector.wait(name)
        return {name: probes[0].digest(name, collector.tokens(name)) for name, _, _ in requests}


def mixed(adapters):
    """Requests of three adapters and of none, of lengths that share steps in many ways."""
    rng = np.random.default_rng(2)
    ids = ["", *(adapter.id for adapter in adapters.values())]
    return [
        (f"r{i}", ids[i % 4], tuple(rng.integers(20, CONFIG.vocab_size, 3 + 9 * i).tolist()))
        for i in range(8)
    ]


@pytest.fixture(scope="module")
def alone(adapters):
    """Every request by itself."""
    return digests(adapters.values(), mixed(adapters), together=False)


VARIANTS = {
    "together": {},
    "two threads": {"threads": 2},
    "small chunks": {"max_chunk_tokens": 24, "max_batched_tokens": 48},
    "two micro-batches": {"micro": 2},
    "grpc 2 shards": {"shards": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_neighbours_with_other_adapters_change_no_bit(adapters, alone, variant):
    got = digests(adapters.values(), mixed(adapters), together=True, **VARIANTS[variant])
    assert got == alone


@pytest.mark.skipif(ring_library() is None, reason="no native library")
def test_rows_with_adapters_go_by_shared_memory_and_keep_their_bits(adapters, alone, monkeypatch):
    monkeypatch.setattr(GrpcTransport, "send", None)  # nothing goes by the stream
    wanted = mixed(adapters)
    assert digests(adapters.values(), wanted, together=True, shards=3, create=create_shm) == alone


def test_requests_without_an_adapter_have_the_bits_of_a_server_without_any(adapters, alone):
    plain = [r for r in mixed(adapters) if not r[1]]
    want = digests((), plain, together=True)
    assert {name: alone[name] for name, _, _ in plain} == want


@pytest.mark.usefixtures("by_torch")
def test_neighbours_change_no_bit_by_torch(adapters):
    few = mixed(adapters)[:4]
    alone = digests(adapters.values(), few, together=False)
    assert digests(adapters.values(), few, together=True) == alone
    plain = [r for r in few if not r[1]]
    assert digests((), plain, together=True) == {name: alone[name] for name, _, _ in plain}


def test_a_bank_refuses_an_adapter_that_it_lacks_and_says_to_try_again(adapters):
    bank = local_experts(SOURCE, torch.bfloat16).bank
    x = torch.zeros((1, CONFIG.hidden_size), dtype=torch.bfloat16)
    one = np.array([1])
    keys = np.array([adapters["all"].key], dtype=np.uint64)
    with pytest.raises(AdapterMissingError, match=adapters["all"].id) as refused:
        bank.run(0, x, np.array([3]), one, np.array([0]), keys)
    assert refused.value.is_retryable


def test_experts_that_come_after_an_adapter_have_its_changes(adapters):
    """As when a shard adopts those of a lost one."""
    x = torch.randn((4, CONFIG.hidden_size)).to(torch.bfloat16)
    ids = np.array([[3, 9]] * 4)
    adapter = adapters["all"]
    keys = np.array([adapter.key, 0, 0, adapter.key], dtype=np.uint64)
    whole = local_experts(SOURCE, torch.bfloat16).bank
    whole.add_adapter(adapter)
    late = local_experts(SOURCE, torch.bfloat16).bank
    late.drop({0: [9]})
    late.add_adapter(adapter)
    late.load({0: [9]})
    assert torch.equal(late.run_all(0, x, ids, keys), whole.run_all(0, x, ids, keys))
    plain = whole.run_all(0, x, ids)
    assert torch.equal(whole.run_all(0, x, ids, keys)[1:3], plain[1:3])
    assert not torch.equal(whole.run_all(0, x, ids, keys)[0], plain[0])
    whole.drop_adapter(adapter.key)
    assert whole.adapters == frozenset()
