"""What holding a checkpoint's experts in fewer bits costs, before it is served so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from shards.checkpoint.weights import Checkpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.quantise import rounded


class LayerError(NamedTuple):
    """Relative errors of one layer: norm of the difference over norm of the weights."""

    layer: int
    error: float  # of all routed experts together
    worst_expert: int
    worst_error: float


def layer_errors(checkpoint: Checkpoint, held: WeightFormat) -> Iterator[LayerError]:
    """Layer after layer; reads one expert at a time."""
    for layer in range(checkpoint.config.num_layers):
        squares = [
            _squares(checkpoint, layer, e, held) for e in range(checkpoint.config.num_experts)
        ]
        lost, whole = (sum(column) for column in zip(*squares, strict=True))
        errors = [(a / b) ** 0.5 if b else 0.0 for a, b in squares]
        worst = max(range(len(errors)), key=errors.__getitem__)
        yield LayerError(layer, (lost / whole) ** 0.5 if whole else 0.0, worst, errors[worst])


def _squares(
    checkpoint: Checkpoint, layer: int, expert: int, held: WeightFormat
) -> tuple[float, float]:
    """Summed squares of an expert's error and of its weights."""
    weights = checkpoint.expert(layer, expert)
    lost = whole = 0.0
    for stored in (*weights.gate_up, weights.down):
        weight = stored.to(torch.bfloat16)
        wide = weight.float()
        lost += float((rounded(weight, held).float() - wide).square().sum())
        whole += float(wide.square().sum())
    return lost, whole
