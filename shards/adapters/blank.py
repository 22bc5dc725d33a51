"""An adapter that changes nothing, in all the places where one can: to have kernels ready."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch

from shards.adapters.adapter import Adapter
from shards.adapters.low_rank import ExpertLowRank, LowRank
from shards.adapters.names import Target, shape_of
from shards.checkpoint.config import ModelConfig

RANK: Final = 16  # the most usual one
_ID: Final = "0" * 15 + "1"  # no hash of an adapter's files, and not for long
_DENSE: Final = ("q_a", "q_b", "kv_a", "kv_b", "o")
_OF_EXPERT: Final = ("gate", "up", "down")


def blank_adapter(
    config: ModelConfig, layers: Iterable[int], routed: Iterable[tuple[int, int]]
) -> Adapter:
    """Zeros for the dense weights of ``layers``, and for ``routed`` layers and experts."""
    zero = torch.zeros((1, 1))

    def zeros(layer: int, name: str, expert: int | None = None) -> LowRank:
        num_out, num_in = shape_of(Target(layer, name, expert), config)
        return LowRank(zero.expand(RANK, num_in), zero.expand(num_out, RANK), 1.0)

    layers = list(layers)
    return Adapter(
        id=_ID,
        rank=RANK,
        dense={(layer, name): zeros(layer, name) for layer in layers for name in _DENSE},
        shared={
            layer: ExpertLowRank(*(zeros(layer, f"shared_{name}") for name in _OF_EXPERT))
            for layer in layers
        },
        routed={
            (layer, expert): ExpertLowRank(*(zeros(layer, name, expert) for name in _OF_EXPERT))
            for layer, expert in routed
        },
        num_bytes=0,
    )
