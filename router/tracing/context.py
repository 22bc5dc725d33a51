"""Trace contexts of W3C (traceparent, tracestate), from headers or metadata and back.

Format: https://www.w3.org/TR/trace-context/, as OpenTelemetry's propagator reads it: what it cannot
read is as if nothing had been sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.tracing.incoming import NAMES, Headers

_SAMPLED_BITS = (1 << 64) - 1
_propagator = TraceContextTextMapPropagator()


def context_of(headers: Iterable[tuple[str, str | bytes]]) -> SpanContext | None:
    """The caller's span, if the headers (names in lower case) tell of one."""
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        if name in NAMES and isinstance(value, str):
            carrier.setdefault(name, []).append(value)
    if len(carrier.get("traceparent", ())) != 1:  # several contradict one another
        return None
    found = get_current_span(_propagator.extract(carrier, Context())).get_span_context()
    return found if found.is_valid else None


def headers_of(span: SpanContext, *, is_sampled: bool) -> Headers:
    """What to tell whom ``span`` calls."""
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    told = SpanContext(span.trace_id, span.span_id, False, flags, span.trace_state)
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, as_parent(told))
    return tuple(carrier.items())


def as_parent(span: SpanContext | None) -> Context:
    """The context of what is started below a span of another process; None: below none."""
    return Context() if span is None else set_span_in_context(NonRecordingSpan(span), Context())


def is_sampled(caller: SpanContext | None, trace_id: int, ratio: float) -> bool:
    """Whether a request is sampled when it comes: as its caller says, else a share of trace ids.

    The share is that of OpenTelemetry's TraceIdRatioBased, so that all who look at the same id
    decide alike.
    """
    if caller is not None:
        return caller.trace_flags.sampled
    return trace_id & _SAMPLED_BITS < round(ratio * (_SAMPLED_BITS + 1))
