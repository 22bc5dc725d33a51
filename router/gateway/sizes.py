"""Sizes that a plan needs of a gateway. Loads no torch."""

from __future__ import annotations

from typing import Final

BLOCK_SIZE: Final = 16  # tokens of a block of the latent cache
NUMBER_BYTES: Final = {"bf16": 2, "fp32": 4}  # of weights, activations and cache, by numerics


def least_blocks(max_model_len: int) -> int:
    """Of a cache that serves one request of full length; block 0 is nobody's."""
    return -(-max_model_len // BLOCK_SIZE) + 1
