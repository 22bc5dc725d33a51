"""The metrics of a whole deployment as one Prometheus page."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

_LABEL = "process"


def metrics_page(
    own: CollectorRegistry, text_by_process: Mapping[str, bytes], process: str = "frontend"
) -> bytes:
    """Prometheus text of many processes, told apart by the label ``process``.

    ``own`` are those of this ``process``, unless it has told its own with the others: then what it
    told counts, for another frontend may have shown that already, and counters must not go back. A
    process whose text cannot be read is left out.
    """
    merged: dict[str, Metric] = {}
    if process not in text_by_process:
        _merge(merged, own.collect(), process)
    for process, text in text_by_process.items():
        try:
            families = list(text_string_to_metric_families(text.decode("utf-8")))
        except ValueError:
            logger.warning("metrics_unreadable process=%s", process)
            continue
        _merge(merged, families, process)
    registry = CollectorRegistry()
    registry.register(_Snapshot(merged.values()))
    return generate_latest(registry)


def _merge(merged: dict[str, Metric], families: Iterable[Metric], process: str) -> None:
    for family in families:
        into = merged.get(family.name)
        if into is None:
            into = Metric(family.name, family.documentation, family.type)
            merged[family.name] = into
        for sample in family.samples:
            labels = {_LABEL: process, **sample.labels}
            into.samples.append(sample._replace(labels=labels))


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families
