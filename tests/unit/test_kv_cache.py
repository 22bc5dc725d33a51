"""The paged latent cache takes memory as blocks are written, not when it is made."""

import psutil
import pytest
import torch

from helpers.fixture_models import BLOCK_SIZE, checkpoint
from router.model.kv_cache import PagedLatentCache

CONFIG = checkpoint().config
POOL_BYTES = 512 << 20
MARGIN_BYTES = 64 << 20  # what this process may take for itself meanwhile
DTYPES = [torch.bfloat16, torch.float32]


def pool(dtype):
    per_block = PagedLatentCache.bytes_per_block(CONFIG, BLOCK_SIZE, dtype)
    return PagedLatentCache(CONFIG, POOL_BYTES // per_block, BLOCK_SIZE, dtype)


def resident_bytes():
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_unused_pool_takes_no_memory_and_a_full_one_takes_its_size(dtype):
    before = resident_bytes()
    cache = pool(dtype)
    assert resident_bytes() - before < MARGIN_BYTES
    latent = torch.ones((1, CONFIG.latent_dim))
    for layer in range(CONFIG.num_layers):
        cache.write(layer, torch.tensor([BLOCK_SIZE]), latent)
    assert resident_bytes() - before < MARGIN_BYTES
    for layer in range(CONFIG.num_layers):
        cache.layer(layer).fill_(1)
    assert resident_bytes() - before > POOL_BYTES - MARGIN_BYTES


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_never_written_is_zero_beside_what_was(dtype):
    cache = pool(dtype)
    last = cache.num_blocks - 1
    for layer in range(CONFIG.num_layers):
        cache.write(layer, torch.tensor([last * BLOCK_SIZE]), torch.ones((1, CONFIG.latent_dim)))
        assert cache.layer(layer).shape == (last + 1, BLOCK_SIZE, CONFIG.latent_dim)
        tail = cache.sequence(layer, [0, last - 1, last], 3 * BLOCK_SIZE)
        assert tail.dtype == dtype
        assert tail[2 * BLOCK_SIZE].eq(1).all()
        tail[2 * BLOCK_SIZE] = 0
        assert not tail.any()
