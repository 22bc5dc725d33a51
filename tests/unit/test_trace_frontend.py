"""A request in the frontend: its spans come at its end, if at all."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from galerne.logs import trace_ids
from router.api.events import EndReason, Finished, TokensDelta, Usage
from router.engine.request import GenerationRequest, SamplingParams
from router.tracing.context import context_of
from router.tracing.frontend import FrontendTracer
from router.tracing.incoming import note_incoming
from router.tracing.settings import TracingSettings
from router.tracing.tracer import Tracer

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REQUEST = GenerationRequest(
    request_id="r", prompt_token_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=9)
)


class World:
    """A frontend's tracer on a clock of the test's."""

    def __init__(self):
        self.exporter, self.now_s = InMemorySpanExporter(), 50.0
        settings = TracingSettings(endpoint="file:///not/used", sample_ratio=0.0, slow_s=1.0)
        self._tracer = Tracer(settings, "galerne-frontend", "here", self.exporter)
        self.frontend = FrontendTracer(self._tracer, lambda: self.now_s)

    def begin(self, flags="00", api="chat"):
        note_incoming((("traceparent", f"00-{TRACE_ID}-{CALLER}-{flags}"),))
        return self.frontend.begin(api)

    def spans(self):
        """By name."""
        assert self._tracer.flush(60.0)
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def close(self):
        self._tracer.close()
        note_incoming(())


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def tokens(count=1):
    return TokensDelta(choice=0, offset=0, token_ids=(5,) * count)


def run(world, trace, waits_s=(0.1, 0.1)):
    """Encoded, sent to one gateway, answered token by token."""
    with trace.part("encode"):
        world.now_s += 0.25
    asked = trace.admitted(REQUEST)
    assert asked == REQUEST, "a trace makes no other request of it"
    attempt = asked.trace.attempt("gateway-0", "127.0.0.1:5")
    for wait_s in waits_s:
        world.now_s += wait_s
        trace.see(tokens())
    attempt.end()
    trace.see(Finished(choice=0, reason=EndReason.LENGTH))
    trace.see(Usage(prompt_tokens=3, completion_tokens=len(waits_s), cached_tokens=1))
    return attempt


def test_nothing_leaves_of_a_request_that_is_not_kept(world):
    trace = world.begin()
    attempt = run(world, trace)
    assert not context_of(attempt.metadata).trace_flags.sampled
    assert trace_ids == {"r": TRACE_ID}
    trace.close("length")
    assert world.spans() == {}
    assert trace_ids == {}


def test_a_sampled_request_is_told_with_all_its_parts(world):
    trace = world.begin("01")
    attempt = run(world, trace)
    trace.close("length")
    spans = world.spans()
    assert set(spans) == {"chat", "encode", "gateway gateway-0"}
    root, encode, turn = (spans[name] for name in ("chat", "encode", "gateway gateway-0"))
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    assert f"{root.parent.span_id:016x}" == CALLER
    assert encode.end_time - encode.start_time == pytest.approx(0.25e9, abs=1000)
    assert root.end_time - root.start_time == pytest.approx(0.45e9, abs=1000)
    assert {encode.parent.span_id, turn.parent.span_id} == {root.context.span_id}
    told = context_of(attempt.metadata)
    assert (told.trace_id, told.span_id) == (root.context.trace_id, turn.context.span_id)
    assert told.trace_flags.sampled
    assert root.attributes["galerne.kept"] == "sampled"
    assert root.attributes["gen_ai.usage.input_tokens"] == 3
    assert root.attributes["gen_ai.usage.output_tokens"] == 2
    assert root.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert [event.name for event in root.events] == ["first token"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [("slow", "slow"), ("failed", "failed"), ("moved", "retried"), ("below", "kept_below")],
)
def test_why_an_unsampled_request_is_kept(world, case, reason):
    trace = world.begin()
    attempt = run(world, trace, (0.1, 1.5) if case == "slow" else (0.1, 0.1))
    if case == "below":
        attempt.kept_below()
    if case == "moved":
        attempt.failed("the gateway was lost")
        trace.attempt("gateway-1", "127.0.0.1:6")  # which is still open at the end
    trace.close("INTERNAL" if case == "failed" else "length")
    spans = world.spans()
    assert spans["chat"].attributes["galerne.kept"] == reason
    assert spans["chat"].status.is_ok is (case != "failed")
    if case == "moved":
        assert spans["gateway gateway-0"].status.description == "the gateway was lost"
        assert spans["gateway gateway-1"].attributes["galerne.attempt"] == 1


def test_without_a_caller_a_trace_begins_here(world):
    note_incoming(())
    trace = world.frontend.begin("generate")
    trace.close("INTERNAL")
    (root,) = world.spans().values()
    assert root.parent is None
    assert root.context.trace_id != int(TRACE_ID, 16)
