"""Runners over the fixtures and random models on the GPU's kernels, without the exchange's wire."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from helpers.triton_device import DEVICE_NAME
from router.engine.request import ImageInput
from router.exchange.local import LocalExperts
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
BLOCK_SIZE = 16


@lru_cache
def checkpoint(name="tiny-hf-bf16"):
    return open_checkpoint(FIXTURES / name)


@lru_cache
def expected(name):
    return load_file(FIXTURES / "expected" / f"{EXPECTED_SET[name]}.safetensors")


@lru_cache
def inputs():
    return load_file(FIXTURES / "expected" / "tiny-inputs.safetensors")


@lru_cache
def prompt(case):
    return inputs()[f"{case}.token_ids"].tolist()


def fixture_image():
    """The image of the ``image`` case, as preprocessed by the fixtures' generator."""
    ids, layout = prompt("image"), inputs()["image.layout.0"].tolist()
    offset = next(i for i in range(len(ids)) if ids[i : i + len(layout)] == layout)
    pixels = inputs()["image.pixels.0"].numpy()
    return ImageInput(
        pixels=pixels, offset=offset, grid_width=3, grid_height=2, content_hash=b"fixture"
    )


def bank(source, dtype, held=WeightFormat.BF16, device=DEVICE_NAME):
    config = source.config
    every = {layer: range(config.num_experts) for layer in range(config.num_layers)}
    return ExpertBank(source, every, dtype, held=held, device=device)


def runner(
    source,
    dtype,
    *,
    experts=None,
    held=WeightFormat.BF16,
    num_blocks=64,
    micro_batches=1,
    sees=False,
):
    """``sees``: with the vision tower on the device."""
    cache = PagedLatentCache(source.config, num_blocks, BLOCK_SIZE, dtype, DEVICE_NAME)
    experts = experts or LocalExperts(bank(source, dtype, held), ["shard-0"])
    decoder = Decoder(source, dtype, device=DEVICE_NAME)
    tower = VisionTower(source, dtype, device=DEVICE_NAME) if sees else None
    return PagedRunner(decoder, cache, experts, tower, micro_batches)


def blocks_for(num_tokens, first=1):
    return list(range(first, first + -(-num_tokens // BLOCK_SIZE)))


def run_prompt(
    model, token_ids, images=(), *, chunk=10_000, first_block=1, num_logits=None, adapter=0
):
    """Logits of every position, or the last ones of every chunk, computed in chunks."""
    blocks, parts = blocks_for(len(token_ids), first_block), []
    for start in range(0, len(token_ids), chunk):
        n = min(chunk, len(token_ids) - start)
        wanted = n if num_logits is None else min(n, num_logits)
        parts.append(
            model.run(
                0, [SequenceChunk(token_ids, start, n, blocks, wanted, images, adapter=adapter)]
            )
        )
    return np.concatenate(parts)


def greedy(model, token_ids, count, *, first_block=1):
    """One prefill, then decode steps."""
    ids = list(token_ids)
    blocks = blocks_for(len(ids) + count, first_block)
    start = 0
    for _ in range(count):
        chunk = SequenceChunk(ids, start, len(ids) - start, blocks, 1)
        start = len(ids)
        ids.append(int(model.run(0, [chunk])[0].argmax()))
    return ids[-count:]


def correlation(got, want):
    a, b = (torch.as_tensor(v).double().flatten() for v in (got, want))
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
