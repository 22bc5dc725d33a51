"""The decoder's layers but for their experts: the port that torch and native kernels share.

A layer's front goes from the residual to the gate's choice: norm, attention, residual, norm, gate.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from router.exchange.dispatch import Ints
from router.model.batch import StepBatch
from router.model.experts_port import RoutedExperts
from router.model.kv_cache import PagedLatentCache
from router.profiling import LayerTimer
from shards.adapters.adapter import Adapter


class Routed(NamedTuple):
    """What a layer's experts need; T tokens, K experts per token.

    May be overwritten by the same step's next front.
    """

    residual: torch.Tensor  # [rows, H] after attention
    normed: torch.Tensor  # [T, H]
    expert_ids: Ints  # [T, K] ascending
    weights: torch.Tensor  # [T, K] float32


class StepLayers(Protocol):
    """All layers, for the tokens of one step. Residuals have the rows that ``start`` gave them."""

    def start(self, hidden: torch.Tensor) -> torch.Tensor:
        """The first residual of embeddings ``[num_rows, H]``, which it may take over."""
        ...

    def front(self, layer: int, x: torch.Tensor, timer: LayerTimer) -> Routed:
        """Attend and choose experts; writes the tokens' latents to the cache."""
        ...

    def join(
        self, x: torch.Tensor, shared: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The residual after the experts.

        Args:
            x: Residual after attention.
            shared: ``[T, H]`` of the shared expert.
            rows: ``[T, K, H]`` of the routed experts, unweighted, by ascending id.
            weights: ``[T, K]`` float32.
        """
        ...

    def shared(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        """``[T, H]`` of the shared expert."""
        ...

    def through(
        self, x: torch.Tensor, experts: RoutedExperts, timer: LayerTimer
    ) -> torch.Tensor | None:
        """The residual after all layers at once, bit for bit as layer by layer.

        None where this cannot be done.
        """
        ...

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm."""
        ...


class Layers(Protocol):
    """Weights of all layers but for the experts."""

    def begin(self, batch: StepBatch, cache: PagedLatentCache) -> StepLayers:
        """What the tokens of a step need in every layer."""
        ...

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold what an adapter changes of these weights; no step runs meanwhile."""
        ...

    def drop_adapter(self, key: int) -> None:
        """Forget it again."""
        ...

    def experts_moved(self, num_beside: int) -> None:
        """Forget where the routed experts were; shared experts have so many threads."""
        ...
