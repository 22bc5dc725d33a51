"""Several frames of one layer as one grouped computation, so that each expert is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from shards.adapters.tokens import TokenAdapters
from shards.wire import Ints, RequestRows


class Merged(NamedTuple):
    """One computation for several frames."""

    rows: RequestRows
    order: Ints  # [R] place, among the frames' rows in turn, of every merged row
    num_rows_by_frame: list[int]


def merge(frames: Sequence[RequestRows]) -> Merged:
    """Join frames: rows by ascending expert, then in order of arrival."""
    if len(frames) == 1:
        rows = frames[0]
        return Merged(rows, np.arange(len(rows.row_token)), [len(rows.row_token)])
    first_token = np.cumsum([0, *(len(f.tokens) for f in frames)])
    row_token = np.concatenate([f.row_token + t for f, t in zip(frames, first_token, strict=False)])
    expert_of_row = np.concatenate([np.repeat(f.expert_ids, f.num_rows_by_group) for f in frames])
    order = np.argsort(expert_of_row, kind="stable")
    experts, counts = np.unique(expert_of_row, return_counts=True)
    tokens = torch.cat([f.tokens for f in frames])
    adapters = None
    if any(f.adapters is not None for f in frames):
        adapters = np.concatenate([_adapters_of(f) for f in frames])
    return Merged(
        RequestRows(tokens, experts, counts, row_token[order], adapters),
        order,
        [len(f.row_token) for f in frames],
    )


def _adapters_of(frame: RequestRows) -> TokenAdapters:
    return np.zeros(len(frame.tokens), np.uint64) if frame.adapters is None else frame.adapters


def split(merged: Merged, results: torch.Tensor) -> list[torch.Tensor]:
    """Every frame's results ``[R_i, H]``, in the order of its rows."""
    if len(merged.num_rows_by_frame) == 1:
        return [results]
    unordered = torch.empty_like(results)
    unordered[torch.from_numpy(merged.order)] = results
    return list(torch.split(unordered, merged.num_rows_by_frame))
