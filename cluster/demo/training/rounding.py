"""Training on the weights as fp8 will hold them: the last steps learn around the rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cluster.demo.training.model import Model
from shards.checkpoint.names import can_be_fp8
from shards.checkpoint.native_write import dequantise, quantise


@contextmanager
def rounded_to_fp8(model: Model) -> Iterator[None]:
    """Within, the weights that the checkpoint stores in fp8 have the values they have there.

    Gradients taken within are those of the rounded weights; the exact ones come back at the end
    and are what the optimiser moves (straight-through).
    """
    exact: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    for name, p in model.named_parameters():
        if can_be_fp8(name) or ".experts_" in name:
            exact.append((p, p.data))
            # Gate and up of an expert are stored as two matrices.
            p.data = _rounded(p.data, parts=2 if name.endswith("experts_gate_up") else 1)
    try:
        yield
    finally:
        for p, data in exact:
            p.data = data


def _rounded(weight: torch.Tensor, parts: int) -> torch.Tensor:
    """As stored and read again, every one of ``parts`` of the rows with a scale of its own."""
    split = weight.view(*weight.shape[:-2], parts, -1, weight.shape[-1])
    return dequantise(quantise(split)).view_as(weight)
