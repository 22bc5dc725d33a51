"""A request in the frontend: from its arrival to its end, with a span for each gateway's turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from galerne.logs import trace_ids
from router.api.events import Accepted, Event, Finished, TokensDelta, Usage
from router.engine.request import GenerationRequest
from router.tracing.context import as_parent, context_of, headers_of, is_sampled
from router.tracing.incoming import incoming
from router.tracing.keep import Course, is_failure, keep_reason
from router.tracing.tracer import Tracer


class FrontendTracer:
    """Begins the traces of one frontend."""

    def __init__(self, tracer: Tracer, now_s: Callable[[], float] = time.monotonic) -> None:
        self.tracer = tracer
        self.now_s = now_s

    def begin(self, api: str) -> FrontendTrace:
        """A request has come: of ``incoming``, or of nobody's trace."""
        self.tracer.wall.renew()
        return FrontendTrace(self, api)


class FrontendTrace:
    """Implements ``RequestTrace``. Nothing is exported before the end, which decides."""

    def __init__(self, frontend: FrontendTracer, api: str) -> None:
        self._tracer, self._now_s = frontend.tracer, frontend.now_s
        caller = context_of(incoming())
        self._root = self._begin(api, as_parent(caller), SpanKind.SERVER)
        self._context = self._root.get_span_context()
        ratio = self._tracer.settings.sample_ratio
        self.is_sampled = is_sampled(caller, self._context.trace_id, ratio)
        self._root.set_attribute("gen_ai.operation.name", api)
        self._ended: list[tuple[Span, float]] = []
        self._open_attempts: list[_Attempt] = []
        self._num_attempts = 0
        self._is_kept_below = False
        self._longest_wait_s, self._waits_since_s = 0.0, self._now_s()
        self._has_tokens = False
        self._request_id = ""

    @property
    def trace_id(self) -> str:
        """In hexadecimal, as collectors show it."""
        return f"{self._context.trace_id:032x}"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Note the time inside the block."""
        span = self._begin(name, self._below_root)
        try:
            yield
        finally:
            self._ended.append((span, self._now_s()))

    def admitted(self, request: GenerationRequest) -> GenerationRequest:
        """The request as it goes to a gateway, with its trace."""
        self._request_id = request.request_id
        trace_ids[request.request_id] = self.trace_id
        self._root.set_attributes(
            {
                "galerne.request": request.request_id,
                "galerne.choices": request.sampling.n,
                "gen_ai.request.max_tokens": request.sampling.max_tokens,
                "gen_ai.usage.input_tokens": len(request.prompt_token_ids),
            }
        )
        return replace(request, trace=self)

    def attempt(self, gateway: str, address: str) -> _Attempt:
        """See ``RequestTrace``."""
        span = self._begin(f"gateway {gateway}", self._below_root, SpanKind.CLIENT)
        span.set_attributes({"galerne.gateway": gateway, "server.address": address})
        span.set_attribute("galerne.attempt", self._num_attempts)
        self._num_attempts += 1
        told = headers_of(span.get_span_context(), is_sampled=self.is_sampled)
        attempt = _Attempt(self, span, told)
        self._open_attempts.append(attempt)
        return attempt

    def ended(self, attempt: _Attempt, span: Span) -> None:
        """A gateway's turn is over."""
        if attempt in self._open_attempts:
            self._open_attempts.remove(attempt)
            self._ended.append((span, self._now_s()))

    def kept_below(self) -> None:
        """A gateway keeps its spans."""
        self._is_kept_below = True

    def see(self, event: Event) -> None:
        """An event goes to the client."""
        match event:
            case TokensDelta(token_ids=ids) if ids:
                now = self._now_s()
                self._longest_wait_s = max(self._longest_wait_s, now - self._waits_since_s)
                if not self._has_tokens:
                    self._root.add_event("first token", None, self._ns(now))
                self._has_tokens = True
                self._waits_since_s = now
            case Finished(reason=reason):
                self._root.set_attribute("gen_ai.response.finish_reasons", (reason.value,))
            case Usage(completion_tokens=num_tokens, cached_tokens=num_cached):
                self._root.set_attribute("gen_ai.usage.output_tokens", num_tokens)
                self._root.set_attribute("galerne.cached_tokens", num_cached)
            case Accepted():
                self._root.add_event("accepted", None, self._ns(self._now_s()))

    def close(self, outcome: str) -> None:
        """The request has ended; with a finish reason, a gRPC status, or ``disconnected``."""
        trace_ids.pop(self._request_id, None)
        for attempt in list(self._open_attempts):
            attempt.end()
        course = Course(
            is_sampled=self.is_sampled,
            is_failed=is_failure(outcome),
            is_retried=self._num_attempts > 1,
            is_kept_below=self._is_kept_below,
            longest_wait_s=self._longest_wait_s,
        )
        reason = keep_reason(course, self._tracer.settings.slow_s)
        if not reason:
            return
        self._root.set_attributes({"galerne.outcome": outcome, "galerne.kept": reason})
        if course.is_failed:
            self._root.set_status(Status(StatusCode.ERROR, outcome))
        for span, at_s in self._ended:
            span.end(self._ns(at_s))
        self._root.end(self._ns(self._now_s()))

    @property
    def _below_root(self) -> Context:
        return set_span_in_context(self._root, Context())

    def _begin(self, name: str, parent: Context, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        started = self._ns(self._now_s())
        return self._tracer.own.start_span(name, context=parent, kind=kind, start_time=started)

    def _ns(self, at_s: float) -> int:
        return self._tracer.wall.ns(at_s)


class _Attempt:
    """Implements ``Attempt``."""

    def __init__(
        self, trace: FrontendTrace, span: Span, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self.metadata = metadata
        self._trace, self._span = trace, span

    def kept_below(self) -> None:
        """See ``Attempt``."""
        self._trace.kept_below()

    def failed(self, error: str) -> None:
        """See ``Attempt``."""
        self._span.set_status(Status(StatusCode.ERROR, error))

    def end(self) -> None:
        """See ``Attempt``."""
        self._trace.ended(self, self._span)
