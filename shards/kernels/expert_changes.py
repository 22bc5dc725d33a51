"""Which rows of a grouped computation adapters change, and how. For torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shards.adapters.low_rank import ExpertLowRank


class ChangedRows(NamedTuple):
    """Rows of one group with one adapter."""

    change: ExpertLowRank
    rows: torch.Tensor  # indices within the group


def changed_rows(
    expert_ids: npt.NDArray[np.int64],
    num_rows_by_group: npt.NDArray[np.int64],
    row_adapters: npt.NDArray[np.uint64],
    changes: Mapping[int, Mapping[int, ExpertLowRank]],
) -> list[list[ChangedRows]]:
    """Of every group.

    Args:
        expert_ids: ``[G]`` the expert of every group.
        num_rows_by_group: ``[G]``, sums to R.
        row_adapters: ``[R]`` key of every row's adapter, group after group; 0: none.
        changes: By adapter's key, then by expert; what is not there changes nothing.
    """
    found: list[list[ChangedRows]] = []
    ends = np.cumsum(num_rows_by_group)
    for expert, part in zip(expert_ids, np.split(row_adapters, ends[:-1]), strict=True):
        group = []
        for key in np.unique(part):
            change = changes.get(int(key), {}).get(int(expert))
            if change is not None:
                group.append(ChangedRows(change, torch.from_numpy(np.flatnonzero(part == key))))
        found.append(group)
    return found
