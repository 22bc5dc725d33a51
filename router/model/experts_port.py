"""What the decoder and its runner need of the experts, wherever these live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from galerne.ids import ShardId
from router.exchange.calls import SessionCounters
from router.exchange.links import LinkState
from router.profiling import StepWatch
from shards.adapters.tokens import TokenAdapters


class PendingRows(Protocol):
    """Rows that are away."""

    def wait(self, patience_s: float | None = None) -> torch.Tensor:
        """``[T, K, H]`` unweighted expert outputs, in the order of ``expert_ids``.

        Waits for as long as the exchange's limit says, or for ``patience_s`` if that is less.

        Raises:
            ShardUnavailableError: Some experts could not be reached before the deadline.
            EpochRetiredError: The cluster serves another topology by now.
        """
        ...


class RoutedExperts(Protocol):
    """Sends tokens to their experts. Used by the engine's thread only."""

    def interrupt(self) -> None:
        """End the step that waits, if one does, with EpochRetiredError. From any thread."""
        ...

    def watch(self, watch: StepWatch | None) -> None:
        """Tell of frames from now on; None: nobody."""
        ...

    def start_step(self, step: int) -> None:
        """Number what follows; a step that failed leaves nothing behind."""
        ...

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> PendingRows:
        """Dispatch ``[T, H]`` tokens to ``[T, K]`` experts (ascending ids) and return at once.

        The arrays stay as they are until the rows are in. ``adapters``: of the tokens, those that
        change experts; None where nobody has one.
        """
        ...

    def abandon(self) -> None:
        """Forget every call that is away."""
        ...

    def poll(self) -> None:
        """Take in events that came while no call was away."""
        ...

    def unreachable(self) -> list[ShardId]:
        """Shards that are down and leave an expert without a reachable copy. From any thread."""
        ...

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """State of every link."""
        ...

    @property
    def counters(self) -> SessionCounters:
        """Totals for metrics."""
        ...

    def close(self) -> None:
        """Release links and threads."""
        ...


class PassingExperts:
    """Implements ``RoutedExperts`` by another one; for those that add to what it does."""

    def __init__(self, inner: RoutedExperts) -> None:
        self._inner = inner

    def begin(
        self,
        layer: int,
        micro_batch: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> PendingRows:
        """See ``RoutedExperts``."""
        return self._inner.begin(layer, micro_batch, x, expert_ids, adapters)

    def interrupt(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.interrupt()

    def watch(self, watch: StepWatch | None) -> None:
        """See ``RoutedExperts``."""
        self._inner.watch(watch)

    def start_step(self, step: int) -> None:
        """See ``RoutedExperts``."""
        self._inner.start_step(step)

    def abandon(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.abandon()

    def poll(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.poll()

    def unreachable(self) -> list[ShardId]:
        """See ``RoutedExperts``."""
        return self._inner.unreachable()

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """See ``RoutedExperts``."""
        return self._inner.links

    @property
    def counters(self) -> SessionCounters:
        """See ``RoutedExperts``."""
        return self._inner.counters

    def close(self) -> None:
        """See ``RoutedExperts``."""
        self._inner.close()
