"""What a process shows of its use of NCCL."""

from __future__ import annotations

from typing import Protocol

from galerne.metric_set import MetricSet


class UsesNccl(Protocol):
    """A process, as far as it is shown."""

    @property
    def num_links(self) -> int:
        """Links that go from GPU to GPU."""
        ...

    @property
    def num_leaked(self) -> int:
        """Threads that have not come back from NCCL in time."""
        ...


def show_nccl(metrics: MetricSet, process: UsesNccl) -> None:
    """Gauges of gateways and shards."""
    metrics.show_gauge(
        "galerne_nccl_links",
        "Links that go from GPU to GPU.",
        lambda: process.num_links,
    )
    metrics.show_gauge(
        "galerne_nccl_stuck_threads",
        "Threads that have not come back from NCCL in time; past 3 the process ends itself.",
        lambda: process.num_leaked,
    )
