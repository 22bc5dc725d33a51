"""The committed checkpoints, their inputs and expected values, and runners over them."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from galerne.clock import MonotonicClock
from galerne.ids import Epoch, GatewayId, ShardId
from galerne.topology import LinkTransport, Mode, Topology, contiguous_placement
from helpers.local_transport import LocalTransport
from router.engine.request import ImageInput
from router.exchange.deadline import ExchangeConfig
from router.exchange.exchange import ExpertExchange
from router.exchange.local import LocalExperts
from router.exchange.session import ExchangeSession
from router.model.decoder import Decoder
from router.model.kv_cache import PagedLatentCache
from router.model.runner import PagedRunner, SequenceChunk
from router.model.vision import VisionTower
from shards.bank import ExpertBank
from shards.checkpoint.open import open_checkpoint
from shards.kernels.formats import WeightFormat

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED_SET = {
    "tiny-hf-bf16": "tiny-bf16",
    "tiny-native-bf16": "tiny-bf16",
    "tiny-hf-fp8": "tiny-hf-fp8",
    "tiny-native-fp8": "tiny-native-fp8",
}
TEXT_CASES = ("len1", "len7", "len70", "len130", "batch0", "batch1", "batch2")
BLOCK_SIZE = 16


@lru_cache
def checkpoint(name="tiny-hf-bf16"):
    return open_checkpoint(FIXTURES / name)


@lru_cache
def inputs():
    return load_file(FIXTURES / "expected" / "tiny-inputs.safetensors")


@lru_cache
def expected(name):
    return load_file(FIXTURES / "expected" / f"{EXPECTED_SET[name]}.safetensors")


def prompt(case):
    return inputs()[f"{case}.token_ids"].tolist()


def fixture_image():
    """The image of the ``image`` case, as preprocessed by the fixtures' generator."""
    pixels = inputs()["image.pixels.0"].numpy()
    layout = inputs()["image.layout.0"].tolist()
    ids = prompt("image")
    offset = next(i for i in range(len(ids)) if ids[i : i + len(layout)] == layout)
    return ImageInput(
        pixels=pixels, offset=offset, grid_width=3, grid_height=2, content_hash=b"fixture"
    )


def images_of(case):
    return (fixture_image(),) if case == "image" else ()


def topology(config, shards=("shard-0",), *, replicas=1, row_budget=4096, micro_batches=1):
    ids = tuple(ShardId(s) for s in shards)
    return Topology(
        epoch=Epoch(1),
        mode=Mode.LATENCY,
        gateways=(GatewayId("gateway-0"),),
        shards=ids,
        placement=contiguous_placement(config.num_layers, config.num_experts, ids, replicas),
        transport=LinkTransport.LOCAL,
        num_micro_batches=micro_batches,
        max_num_seqs=16,
        max_batched_tokens=512,
        row_budget=row_budget,
    )


def exchange_over(transport, shape, config=None):
    session = ExchangeSession(shape, config or ExchangeConfig())
    return ExpertExchange(session, transport, MonotonicClock())


def local_experts(source, dtype, threads=1, held=WeightFormat.BF16, device="cpu"):
    """All experts in the process, as a gateway without shards has them."""
    every = {layer: range(source.config.num_experts) for layer in range(source.config.num_layers)}
    return LocalExperts(ExpertBank(source, every, dtype, None, threads, held, device), ["shard-0"])


def local_exchange(source, dtype, shape=None, threads=1):
    """Experts in the process behind a session, by way of frames."""
    shape = shape or topology(source.config)
    banks = {
        s: ExpertBank(source, shape.placement.experts_of(s), dtype, num_threads=threads)
        for s in shape.shards
    }
    return exchange_over(LocalTransport(banks), shape)


def runner(source, dtype, *, exchange=None, num_blocks=64, micro_batches=1):
    cache = PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, dtype)
    tower = None if source.config.vision is None else VisionTower(source, dtype)
    exchange = exchange or local_experts(source, dtype)
    return PagedRunner(Decoder(source, dtype), cache, exchange, tower, micro_batches)


def run_prompt(model, token_ids, images=(), *, chunk=10_000, first_block=1):
    """Logits of every position of a prompt, computed in chunks."""
    blocks = list(range(first_block, first_block + -(-len(token_ids) // BLOCK_SIZE)))
    parts = []
    for start in range(0, len(token_ids), chunk):
        n = min(chunk, len(token_ids) - start)
        parts.append(model.run(0, [SequenceChunk(token_ids, start, n, blocks, n, images)]))
    return np.concatenate(parts)


def greedy(model, token_ids, count, images=(), *, first_block=1):
    """Greedy continuation: one prefill, then decode steps."""
    ids = list(token_ids)
    blocks = list(range(first_block, first_block + -(-(len(ids) + count) // BLOCK_SIZE)))
    start = 0
    for _ in range(count):
        chunk = SequenceChunk(ids, start, len(ids) - start, blocks, 1, images)
        start = len(ids)
        ids.append(int(model.run(0, [chunk])[0].argmax()))
    return ids[len(token_ids) :]


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([torch.tensor(a).flatten(), b.flatten()]))[0, 1])
