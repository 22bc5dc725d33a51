"""A frontend, a gateway and shards in this process, all of whose spans come to the test."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from helpers.api_servers import make_frontend
from helpers.gateway_process import TOKEN, Directory
from router.gateway import trace
from router.gateway.pool import GatewayPool
from router.tracing.frontend import FrontendTracer
from router.tracing.settings import TracingSettings
from router.tracing.tracer import Tracer

ENDPOINT = "file:///not/used"


class Exporter(InMemorySpanExporter):
    """Of several tracers: it outlives each."""

    def shutdown(self):
        pass


class Spans:
    """What was exported, by every process' tracer."""

    def __init__(self):
        self.exporter = Exporter()
        self._tracers = []

    def tracer(self, settings, service, instance):
        """As ``Tracer``, with this exporter."""
        tracers = self._tracers

        class Collected(Tracer):
            def close(self):
                tracers.remove(self)
                super().close()

        made = Collected(settings, service, instance, self.exporter)
        tracers.append(made)
        return made

    def frontend_tracer(self, **settings):
        told = TracingSettings(**{"endpoint": ENDPOINT, "sample_ratio": 0.0} | settings)
        return FrontendTracer(self.tracer(told, "galerne-frontend", "here"))

    def finished(self):
        """All that have ended."""
        for tracer in self._tracers:
            assert tracer.flush(60.0)
        return list(self.exporter.get_finished_spans())

    def named(self, name):
        return [span for span in self.finished() if span.name == name]

    def clear(self):
        self.finished()
        self.exporter.clear()


@contextmanager
def spans_of_gateways():
    """Gateways that are made inside export to the test."""
    spans, own = Spans(), trace.Tracer
    trace.Tracer = spans.tracer
    try:
        yield spans
    finally:
        trace.Tracer = own


@asynccontextmanager
async def traced_frontend(tracer, *, wait_s=30.0, **gateways):
    """A frontend over a pool of these gateways."""
    pool = GatewayPool(Directory(**gateways), TOKEN, wait_s)
    await pool.start(60.0)
    frontend = make_frontend(pool, tracer=tracer)
    try:
        yield frontend
    finally:
        await frontend.close()
        await pool.close()


def children_of(spans, parent):
    return [s for s in spans if s.parent is not None and s.parent.span_id == parent.context.span_id]


def assert_nested(spans):
    """Every span lies within its parent, and sequential siblings' times add up within it."""
    by_id = {span.context.span_id: span for span in spans}
    for span in spans:
        assert span.start_time <= span.end_time
        parent = None if span.parent is None else by_id.get(span.parent.span_id)
        if parent is not None:
            assert parent.start_time <= span.start_time, (parent.name, span.name)
            assert span.end_time <= parent.end_time, (parent.name, span.name)
