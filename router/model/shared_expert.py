"""The shared experts of all layers."""

from __future__ import annotations

import numpy as np
import torch

from shards.adapters.tokens import TokenAdapters
from shards.checkpoint.weights import Checkpoint
from shards.kernels.experts import LayerExperts, layer_experts
from shards.kernels.formats import WeightFormat
from shards.kernels.threads import KernelThreads


def shared_expert(
    checkpoint: Checkpoint,
    layer: int,
    dtype: torch.dtype,
    num_threads: int,
    held: WeightFormat = WeightFormat.BF16,
) -> LayerExperts:
    """The expert that every token visits, as its layer's only one.

    It runs in the gateway while the routed ones are away.
    """
    hidden_size = checkpoint.config.hidden_size
    experts = layer_experts(dtype, hidden_size, 1, KernelThreads(num_threads), held)
    names = ("shared_gate", "shared_up", "shared_down")
    stored = (checkpoint.dense(f"layers.{layer}.{name}") for name in names)
    experts.add(0, *(weight.held_as(held, dtype) for weight in stored))
    return experts


def run_shared(
    experts: LayerExperts, normed: torch.Tensor, adapters: TokenAdapters | None = None
) -> torch.Tensor:
    """``[T, H]`` through a layer's shared expert."""
    to_only = np.zeros((len(normed), 1), dtype=np.int64)
    return experts.run_all(normed, to_only, adapters)[:, 0]
