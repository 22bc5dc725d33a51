"""A gateway on a device: shards on a device, and shards on CPUs behind real links."""

import numpy as np
import pytest
import torch

from galerne.topology import LinkTransport
from helpers.fixture_models import exchange_over, topology
from helpers.gateways import Collector, request
from helpers.local_transport import LocalTransport
from helpers.switchable import ShardBook, shape, start_gateway
from helpers.triton_device import DEVICE, DEVICE_NAME
from helpers.triton_models import checkpoint, greedy, prompt, run_prompt, runner
from router.gateway.settings import link_profile
from router.model.device_experts import DeviceExperts
from shards.bank import ExpertBank
from shards.kernels.formats import WeightFormat

BF16 = torch.bfloat16
NAME = "tiny-native-bf16"
SHARDS = ("shard-0", "shard-1", "shard-2")


def test_shards_that_get_frames_give_the_bits_of_experts_in_the_process():
    source, ids = checkpoint("tiny-native-fp8"), prompt("len7")
    whole = run_prompt(runner(source, BF16), ids)
    of = topology(source.config, SHARDS)
    banks = {
        s: ExpertBank(source, of.placement.experts_of(s), BF16, device=DEVICE_NAME)
        for s in of.shards
    }
    away = DeviceExperts(exchange_over(LocalTransport(banks), of), DEVICE)
    got = run_prompt(runner(source, BF16, experts=away), ids, chunk=4)
    assert np.array_equal(got.view(np.int32), whole.view(np.int32))


@pytest.fixture
def book():
    book = ShardBook()
    yield book
    book.close()


def served(book, topology, count, **settings):
    host = start_gateway(topology, book, **settings)
    try:
        host.hub.publish = host.engine._on_deltas = collector = Collector()
        sampling = {"max_tokens": count, "temperature": 0.0}
        host.engine.submit(request("r", prompt("len7"), **sampling)).result(60)
        collector.wait("r", timeout=300)
        return collector.tokens("r")
    finally:
        host.stop()


def test_a_gateway_on_a_device_serves_with_its_own_experts(book):
    tokens = served(book, shape(1), 3, device=DEVICE_NAME)
    assert tokens == greedy(runner(checkpoint(NAME), BF16), prompt("len7"), 3)


@pytest.mark.parametrize("transport", [LinkTransport.GRPC, LinkTransport.SHM])
def test_a_gateway_on_a_device_serves_with_shards_on_cpus(book, transport):
    """The mixed cluster: native kernels there, the GPU's here, one profile for the link."""
    both = WeightFormat.BF16, WeightFormat.BF16
    of = shape(1, transport, SHARDS)
    book.start(of, profile=link_profile("bf16", *both, DEVICE_NAME, "cpu"))
    tokens = served(book, of, 3, device=DEVICE_NAME, shard_device="cpu")
    on_host = {s: ExpertBank(checkpoint(NAME), of.placement.experts_of(s), BF16) for s in of.shards}
    away = DeviceExperts(exchange_over(LocalTransport(on_host), of), DEVICE)
    assert tokens == greedy(runner(checkpoint(NAME), BF16, experts=away), prompt("len7"), 3)
