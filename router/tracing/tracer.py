"""OpenTelemetry, as far as it is used: spans by process and shard, exported in the background."""

from __future__ import annotations

import time

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracer

from router.tracing.exporters import create_exporter
from router.tracing.settings import TracingSettings
from router.tracing.spans import SpanData

SCOPE = "galerne"
MAX_QUEUED_SPANS = 20_000  # more are dropped, and OpenTelemetry logs it
_EXPORT_EVERY_S = 1.0
_MAX_BATCH = 512
_MAX_CLOCK_STEP_NS = 1_000_000
_MAX_SERVICES = 256  # shards get new ids as topologies change


class WallClock:
    """Wall times of moments on the monotonic clock."""

    def __init__(self) -> None:
        self._offset_ns = self._offset_now()

    def renew(self) -> None:
        """Follow the wall clock where it was set; spans that have begun keep their times."""
        now = self._offset_now()
        if abs(now - self._offset_ns) > _MAX_CLOCK_STEP_NS:
            self._offset_ns = now

    def ns(self, at_s: float) -> int:
        """Nanoseconds since 1970."""
        return round(at_s * 1e9) + self._offset_ns

    @staticmethod
    def _offset_now() -> int:
        return time.time_ns() - time.monotonic_ns()


class Tracer:
    """Makes spans of one process, and of shards for which it speaks. Every span ended is exported:
    whoever decides what is kept ends the others never.
    """

    def __init__(
        self,
        settings: TracingSettings,
        service: str,
        instance: str,
        exporter: SpanExporter | None = None,
    ) -> None:
        """``exporter`` unset: what the endpoint asks for.

        Raises:
            ConfigError: The endpoint cannot be used.
        """
        self.settings = settings
        self.wall = WallClock()
        self._own = (service, instance)
        self._processor = BatchSpanProcessor(
            exporter or create_exporter(settings, f"{service}-{instance}"),
            max_queue_size=MAX_QUEUED_SPANS,
            schedule_delay_millis=_EXPORT_EVERY_S * 1000,
            max_export_batch_size=_MAX_BATCH,
        )
        self._by_service: dict[tuple[str, str], OtelTracer] = {}

    @property
    def own(self) -> OtelTracer:
        """OpenTelemetry's tracer of this process."""
        return self._tracer(*self._own)

    def write(self, span: SpanData, parent: Context) -> None:
        """Export a span and all below it."""
        tracer = self._tracer("galerne-shard", span.shard) if span.shard else self.own
        started = tracer.start_span(
            span.name,
            context=parent,
            kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
            attributes=span.attributes,
            start_time=self.wall.ns(span.start_s),
        )
        for event in span.events:
            started.add_event(event.name, event.attributes, self.wall.ns(event.at_s))
        if span.error:
            started.set_status(Status(StatusCode.ERROR, span.error))
        for child in span.children:
            self.write(child, set_span_in_context(started, Context()))
        started.end(self.wall.ns(span.end_s))

    def flush(self, timeout_s: float) -> bool:
        """Export what has ended; whether all of it went in time."""
        return self._processor.force_flush(round(timeout_s * 1000))

    def close(self) -> None:
        """Export what has ended, then no more."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _tracer(self, service: str, instance: str) -> OtelTracer:
        key = (service, instance)
        found = self._by_service.get(key)
        if found is None:
            if len(self._by_service) >= _MAX_SERVICES:
                self._by_service.clear()
            resource = Resource({"service.name": service, "service.instance.id": instance})
            provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
            provider.add_span_processor(self._processor)
            found = self._by_service[key] = provider.get_tracer(SCOPE)
        return found
