"""The metrics of one process: a Prometheus registry that knows what was defined in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from galerne.time_buckets import Buckets, TimeBuckets, cumulative

__all__ = ["BoundedLabels", "Buckets", "Definition", "MetricSet", "TimeBuckets", "cumulative"]

# When a counter began says the process' start time once for all; else the page is twice as long.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"  # label of whatever is beyond a bound
_PREFIX = "galerne"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric, for people."""

    name: str  # as on the page
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    text: str


Sample: TypeAlias = tuple[Sequence[str], float]  # values of the labels, and its own
Values: TypeAlias = float | Iterable[Sample]
Read: TypeAlias = Callable[[], Values]
_Fillable: TypeAlias = CounterMetricFamily | GaugeMetricFamily


class MetricSet:
    """Makes metrics. Their names are given as they stand on the page."""

    def __init__(self, *, has_process: bool = False) -> None:
        """``has_process``: with memory, CPU seconds and open files of this process."""
        self.registry = CollectorRegistry()
        self.definitions: list[Definition] = []
        if has_process:
            process = ProcessCollector(namespace=_PREFIX, registry=self.registry)
            for family in process.collect():
                self._define(_page_name(family), family.type, (), f"{family.documentation}")

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter; the name ends with ``_total``."""
        self._define(name, "counter", labels, text)
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge."""
        self._define(name, "gauge", labels, text)
        return Gauge(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> Histogram:
        """A histogram with these upper bounds and infinity."""
        self._define(name, "histogram", labels, text)
        return Histogram(name, text, labels, buckets=bounds, registry=self.registry)

    def show_counter(self, name: str, text: str, read: Read, *labels: str) -> None:
        """A counter whose total ``read`` tells whenever the page is read."""
        self._define(name, "counter", labels, text)
        self._show(lambda: _filled(CounterMetricFamily(name, text, labels=labels), read()))

    def show_gauge(self, name: str, text: str, read: Read, *labels: str) -> None:
        """A gauge whose value ``read`` tells whenever the page is read."""
        self._define(name, "gauge", labels, text)
        self._show(lambda: _filled(GaugeMetricFamily(name, text, labels=labels), read()))

    def show_histogram(
        self, name: str, text: str, read: Callable[[], Iterable[Buckets]], *labels: str
    ) -> None:
        """A histogram whose buckets ``read`` tells whenever the page is read."""
        self._define(name, "histogram", labels, text)

        def family() -> Metric:
            made = HistogramMetricFamily(name, text, labels=labels)
            for one in read():
                made.add_metric(one.labels, one.cumulative, one.total)
            return made

        self._show(family)

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self.registry)

    def _show(self, family: Callable[[], Metric]) -> None:
        self.registry.register(_Family(family))

    def _define(self, name: str, kind: str, labels: tuple[str, ...], text: str) -> None:
        if any(name == known.name for known in self.definitions):
            raise ValueError(f"{name} is defined already")
        self.definitions.append(Definition(name, kind, labels, text))


class BoundedLabels:
    """Values of a label that clients or operators choose: the first ones, then ``other``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The value, or ``other`` if too many came before it."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class _Family(Collector):
    def __init__(self, family: Callable[[], Metric]) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family()


def _filled(family: _Fillable, values: Values) -> Metric:
    samples: Iterable[Sample] = [((), values)] if isinstance(values, (int, float)) else values
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _page_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
