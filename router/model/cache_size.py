"""Size of the paged latent cache. Loads no torch."""

from __future__ import annotations

from shards.checkpoint.config import ModelConfig


def block_bytes(config: ModelConfig, block_size: int, number_bytes: int) -> int:
    """Bytes of one block of the cache, over all layers.

    Source: model reference, section 2, step 6: 320 numbers per token and layer in Small 4.
    """
    return config.num_layers * block_size * config.latent_dim * number_bytes
