"""The gate: which experts a token goes to, and with what weight."""

from __future__ import annotations

from typing import NamedTuple

import torch

from shards.kernels.row_invariant import linear


class GateOutput(NamedTuple):
    """Chosen experts of every token, by ascending id (the canonical order of the combine)."""

    expert_ids: torch.Tensor  # [T, K] int64
    weights: torch.Tensor  # [T, K] float32


def choose_experts(logits: torch.Tensor, top_k: int, scaling_factor: float) -> GateOutput:
    """The ``top_k`` experts of every token and their weights.

    Args:
        logits: ``[T, E]`` float32.
        top_k: Experts per token.
        scaling_factor: ``routed_scaling_factor`` of the model.

    Source: model reference, section 2, step 10: softmax over all, renormalised over the chosen,
    which equals the softmax over the chosen logits. Ties go to the lowest id: the sort is stable.
    """
    scores, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    expert_ids, order = torch.sort(ids[:, :top_k], dim=-1)
    chosen = scores[:, :top_k].gather(-1, order)
    return GateOutput(expert_ids, torch.softmax(chosen, dim=-1) * scaling_factor)


class Gate:
    """Scores experts in float32 from a bf16 weight."""

    def __init__(self, weight: torch.Tensor, top_k: int, scaling_factor: float) -> None:
        """``weight`` is ``[E, H]`` as stored."""
        self._weight = weight.float()
        self._top_k = top_k
        self._scaling_factor = scaling_factor

    def choose(self, hidden: torch.Tensor) -> GateOutput:
        """Experts of ``[T, H]`` rows, T padded."""
        logits = linear(hidden.float(), self._weight)
        return choose_experts(logits, self._top_k, self._scaling_factor)
