"""Sizes that a plan needs of a gateway. Loads no torch."""

from __future__ import annotations

from typing import Final

BLOCK_SIZE: Final = 16  # tokens of a block of the latent cache
NUMBER_BYTES: Final = {"bf16": 2, "fp32": 4}  # of weights, activations and cache, by numerics
