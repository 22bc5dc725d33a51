"""Joins expert outputs in the one canonical order."""

from __future__ import annotations

import torch


def combine(shared: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``shared + sum_k weights_k * rows_k``: shared first, then experts by ascending id.

    Args:
        shared: ``[T, H]`` output of the shared expert.
        rows: ``[T, K, H]`` unweighted outputs, by ascending expert id.
        weights: ``[T, K]`` float32.

    Returns:
        ``[T, H]`` in the dtype of ``shared``: float32 sums, rounded once.

    Source: design section 5. A fixed order is what makes the sum independent of shards.
    """
    total = shared.float()
    wide = rows.float()
    for k in range(rows.shape[1]):
        total = total + wide[:, k] * weights[:, k, None]
    return total.to(shared.dtype)
