"""What a gateway shows besides its engine and its exchange."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from galerne.metric_set import MetricSet
from galerne.topology import Topology


class Serving(Protocol):
    """The gateway, as far as it is shown."""

    @property
    def topology(self) -> Topology:
        """What it serves."""
        ...

    @property
    def unready_reason(self) -> str | None:
        """Why a request could not be served now."""
        ...

    @property
    def num_parked(self) -> int:
        """Streams kept for a client to come back."""
        ...

    @property
    def adapter_ids(self) -> Collection[str]:
        """Adapters that are loaded."""
        ...


class Pooling(Protocol):
    """A frontend's pool of gateways, as far as it is shown."""

    num_turns: dict[str, int]  # of its loops, by name
    num_held: int  # streams that wait for a gateway


def show_pool(metrics: MetricSet, pool: Pooling) -> None:
    """The same for a frontend's pool."""
    metrics.show_gauge(
        "galerne_requests_held",
        "Requests that wait for a gateway to come back, or to wake.",
        lambda: pool.num_held,
    )
    metrics.show_counter(
        "galerne_frontend_loop_turns_total",
        "Progress of the loops that find gateways and probe them.",
        lambda: [((name,), turns) for name, turns in pool.num_turns.items()],
        "loop",
    )


def show_gateway(metrics: MetricSet, gateway: Serving) -> None:
    """Gauges that are read whenever the page is."""
    show = metrics.show_gauge
    show("galerne_gateway_epoch", "Epoch that is served.", lambda: gateway.topology.epoch)
    show(
        "galerne_gateway_ready",
        "1 if a request could be served now: the loop moves, every expert can be reached.",
        lambda: float(gateway.unready_reason is None),
    )
    show(
        "galerne_gateway_running_limit",
        "Choices that may run at one time.",
        lambda: gateway.topology.max_num_seqs,
    )
    show(
        "galerne_gateway_parked_streams",
        "Streams, ended or not, that are kept for a client to come back.",
        lambda: gateway.num_parked,
    )
    show(
        "galerne_gateway_adapters",
        "LoRA adapters that are loaded.",
        lambda: len(gateway.adapter_ids),
    )
