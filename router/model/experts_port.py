"""What the decoder needs of the exchange: routed experts' rows for a layer's tokens."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch


class PendingRows(Protocol):
    """Rows that are away."""

    def wait(self) -> torch.Tensor:
        """``[T, K, H]`` unweighted expert outputs, in the order of ``expert_ids``.

        Raises:
            ShardUnavailableError: Some experts could not be reached before the deadline.
        """
        ...


class RoutedExperts(Protocol):
    """Sends tokens to their experts, wherever these live."""

    def begin(
        self, layer: int, micro_batch: int, x: torch.Tensor, expert_ids: npt.NDArray[np.int64]
    ) -> PendingRows:
        """Dispatch ``[T, H]`` tokens to ``[T, K]`` experts (ascending ids) and return at once."""
        ...
