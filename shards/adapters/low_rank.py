"""What an adapter changes of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class LowRank(NamedTuple):
    """A change of a weight ``[N, K]``: W + ``scale`` · ``up`` · ``down``.

    Source: LoRA, arXiv:2106.09685, section 4.1.
    """

    down: torch.Tensor  # [rank, K], PEFT's A
    up: torch.Tensor  # [N, rank], PEFT's B
    scale: float


class ExpertLowRank(NamedTuple):
    """What changes of an expert; None: nothing."""

    gate: LowRank | None = None
    up: LowRank | None = None
    down: LowRank | None = None


def stacked(changes: Sequence[LowRank | None], widths: Sequence[int]) -> LowRank | None:
    """Changes of weights that are stored as one, ``widths`` rows each; None if there are none."""
    import torch  # late: headers are read without it

    given = [change for change in changes if change is not None]
    if not given:
        return None
    rank, scale = sum(len(change.down) for change in given), given[0].scale or 1.0
    up = torch.zeros((sum(widths), rank))
    row = column = 0
    for change, width in zip(changes, widths, strict=True):
        if change is not None:
            columns = slice(column, column + len(change.down))
            up[row : row + width, columns] = change.up.float() * (change.scale / scale)
            column = columns.stop
        row += width
    return LowRank(torch.cat([change.down.float() for change in given]), up, scale)
