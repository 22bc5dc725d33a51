"""What a gateway shows of its exchange with shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol

from galerne.ids import ShardId
from galerne.metric_set import Buckets, MetricSet
from router.exchange.calls import SessionCounters
from router.exchange.links import LinkState

# By field of ``LinkCounters``.
_OF_LINKS: Final = {
    "frames": "Frames sent, by the shard that they went to.",
    "rows": "Rows sent, those that were sent again too.",
    "suspicions": "Times that a shard missed a deadline and became a suspect.",
    "late_answers": "Answers to frames that nobody waited for any more.",
    "refused_frames": "Frames that a shard refused, or answered with something else.",
}
_RESENT: Final = "Rows asked again: hedge, the first shard may still answer; retry, it cannot."


class Exchanging(Protocol):
    """The experts that serve."""

    @property
    def counters(self) -> SessionCounters:
        """Totals of the gateway."""
        ...

    @property
    def links(self) -> Mapping[ShardId, LinkState]:
        """State of every link that serves."""
        ...


def show_exchange(metrics: MetricSet, experts: Callable[[], Exchanging]) -> None:
    """Metrics of whatever ``experts`` gives, which may be others after a change of topology."""

    def of_links(field: str) -> Iterable[tuple[tuple[str], float]]:
        by_shard = experts().counters.by_shard
        return [((shard,), getattr(link, field)) for shard, link in list(by_shard.items())]

    def round_trips() -> Iterable[Buckets]:
        by_shard = experts().counters.by_shard
        return [link.round_trips.read(shard) for shard, link in list(by_shard.items())]

    def resent() -> Iterable[tuple[tuple[str], float]]:
        counters = experts().counters
        retried = max(counters.rows_resent - counters.rows_hedged, 0)
        return [(("hedge",), counters.rows_hedged), (("retry",), retried)]

    def states() -> Iterable[tuple[tuple[str, str], float]]:
        return [
            ((shard, state.value), float(state is now))
            for shard, now in list(experts().links.items())
            for state in LinkState
        ]

    for field, text in _OF_LINKS.items():
        read = partial(of_links, field)
        metrics.show_counter(f"galerne_exchange_{field}_total", text, read, "shard")
    metrics.show_histogram(
        "galerne_exchange_round_trip_seconds",
        "From a frame's sending to its answer; less the shard's queue and service: wire time.",
        round_trips,
        "shard",
    )
    metrics.show_counter("galerne_exchange_resent_rows_total", _RESENT, resent, "reason")
    metrics.show_counter(
        "galerne_exchange_duplicate_rows_total",
        "Rows that came a second time, and were dropped.",
        lambda: experts().counters.duplicate_rows,
    )
    metrics.show_counter(
        "galerne_exchange_local_rows_total",
        "Rows computed by experts in the gateway's own process.",
        lambda: experts().counters.rows_local,
    )
    metrics.show_gauge(
        "galerne_exchange_link_state",
        "1 at the state of a shard's link: up, suspect or down.",
        states,
        "shard",
        "state",
    )
