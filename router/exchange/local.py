"""Experts in the gateway's own process: a function call on tensors. Nothing is sent or lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from galerne.ids import ShardId
from router.exchange.calls import SessionCounters
from router.exchange.dispatch import Ints
from router.exchange.links import LinkState
from router.profiling import StepWatch
from shards.adapters.tokens import TokenAdapters
from shards.bank import ExpertBank


class _Waiting:
    """Rows that are computed when they are asked for."""

    def __init__(
        self,
        bank: ExpertBank,
        layer: int,
        tokens: torch.Tensor,
        expert_ids: Ints,
        adapters: TokenAdapters | None,
    ) -> None:
        self._bank, self._layer, self._adapters = bank, layer, adapters
        self._tokens, self._expert_ids = tokens, expert_ids

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """See ``PendingRows``."""
        del patience_s
        return self._bank.run_all(self._layer, self._tokens, self._expert_ids, self._adapters)


class LocalExperts:
    """Implements ``RoutedExperts`` with a bank that holds every expert."""

    def __init__(
        self,
        bank: ExpertBank,
        shards: Iterable[ShardId],
        counters: SessionCounters | None = None,
    ) -> None:
        """``shards`` are the topology's names for the bank; ``counters`` are added to."""
        self.bank = bank
        self.links: Mapping[ShardId, LinkState] = dict.fromkeys(shards, LinkState.UP)
        self.counters = counters or SessionCounters()

    def interrupt(self) -> None:
        """See ``RoutedExperts``: nothing is waited for here."""

    def watch(self, watch: StepWatch | None) -> None:
        """See ``RoutedExperts``: there are no frames."""

    def start_step(self, step: int) -> None:
        """See ``RoutedExperts``."""

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: Ints,
        adapters: TokenAdapters | None = None,
    ) -> _Waiting:
        """See ``RoutedExperts``."""
        del micro_batch
        self.counters.rows_local += expert_ids.size
        return _Waiting(self.bank, layer, x, expert_ids, adapters)

    def abandon(self) -> None:
        """See ``RoutedExperts``."""

    def poll(self) -> None:
        """See ``RoutedExperts``."""

    def unreachable(self) -> list[ShardId]:
        """See ``RoutedExperts``."""
        return []

    def close(self) -> None:
        """See ``RoutedExperts``."""
