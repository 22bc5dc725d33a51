"""What an adapter changes of a weight."""

from __future__ import annotations

from typing import NamedTuple

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
