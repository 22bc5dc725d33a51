"""W3C trace contexts: what comes in goes on, and nothing that a client sends does harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from galerne.errors import ConfigError
from router.tracing.context import context_of, headers_of, is_sampled
from router.tracing.incoming import incoming, note_incoming
from router.tracing.keep import Course, is_failure, keep_reason
from router.tracing.settings import TracingSettings

TRACE_IDS = st.integers(1, (1 << 128) - 1)
SPAN_IDS = st.integers(1, (1 << 64) - 1)
STATES = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_*/-]{0,20}", fullmatch=True),
    st.from_regex(r"[!-+.-<>-~]{1,20}", fullmatch=True),
    max_size=4,
)


def span(trace_id=1 << 100, span_id=5, flags=1, state=None):
    return SpanContext(trace_id, span_id, False, TraceFlags(flags), TraceState(list(state or ())))


@given(TRACE_IDS, SPAN_IDS, st.booleans(), STATES)
def test_what_is_told_is_understood(trace_id, span_id, is_told_sampled, state):
    headers = headers_of(span(trace_id, span_id, state=state.items()), is_sampled=is_told_sampled)
    found = context_of(headers)
    assert (found.trace_id, found.span_id) == (trace_id, span_id)
    assert found.trace_flags.sampled is is_told_sampled
    assert dict(found.trace_state) == state


@given(st.text(max_size=80), st.text(max_size=600))
def test_no_header_does_harm(traceparent, tracestate):
    found = context_of((("traceparent", traceparent), ("tracestate", tracestate)))
    assert found is None or found.is_valid


@given(st.binary(max_size=80))
def test_bytes_are_no_context(value):
    assert context_of((("traceparent", value),)) is None


GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("g Z-_\u0660"))
def test_a_damaged_traceparent_is_as_none(at, letter):
    damaged = GOOD[:at] + letter + GOOD[at + 1 :]
    assert damaged == GOOD or context_of((("traceparent", damaged),)) is None


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("tracestate", "a=b"),),
        (("traceparent", GOOD), ("traceparent", GOOD)),
        (("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01"),),
        (("traceparent", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01"),),
        (("traceparent", f"ff{GOOD[2:]}"),),
        (("traceparent", f"{GOOD}-more"),),
    ],
    ids=["nothing", "state alone", "two", "no trace", "no span", "version ff", "too long"],
)
def test_what_names_no_span_is_as_nothing(headers):
    assert context_of(headers) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    found = context_of((("traceparent", f"01{GOOD[2:]}-more"),))
    assert f"{found.trace_id:032x}" == GOOD[3:35]


def test_the_call_is_remembered_and_one_without_a_trace_forgets_it():
    note_incoming((("traceparent", GOOD), ("cookie", "x"), ("tracestate", b"bytes")))
    assert incoming() == (("traceparent", GOOD),)
    note_incoming((("cookie", "x"),))
    assert incoming() == ()


# -- which are kept ----------------------------------------------------------------------------


@given(TRACE_IDS, st.booleans(), st.floats(0, 1))
def test_the_callers_word_counts(trace_id, is_told, ratio):
    assert is_sampled(span(flags=int(is_told)), trace_id, ratio) is is_told


@given(TRACE_IDS, st.floats(0, 1), st.floats(0, 1))
def test_without_it_the_share_is_opentelemetrys_and_grows_with_the_ratio(trace_id, one, other):
    for ratio in (one, other):
        reference = TraceIdRatioBased(ratio).should_sample(None, trace_id, "")
        assert is_sampled(None, trace_id, ratio) is reference.decision.is_sampled()
    less, more = sorted((one, other))
    assert is_sampled(None, trace_id, less) <= is_sampled(None, trace_id, more)
    assert is_sampled(None, trace_id, 1.0)
    assert not is_sampled(None, trace_id, 0.0)


COURSES = st.builds(
    Course, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 10)
)


@given(COURSES, st.floats(0.001, 9))
def test_a_trace_is_kept_for_one_reason_at_least_or_dropped(course, slow_s):
    reason = keep_reason(course, slow_s)
    *flags, wait_s = course
    assert bool(reason) is (any(flags) or wait_s > slow_s)
    assert reason in ("sampled", "failed", "retried", "kept_below", "slow", "")


@pytest.mark.parametrize(
    ("outcome", "is_ours"),
    [
        *((name, False) for name in ("stop", "length", "disconnected", "INVALID_ARGUMENT")),
        ("RESOURCE_EXHAUSTED", False),
        *((name, True) for name in ("INTERNAL", "UNAVAILABLE", "error")),
    ],
)
def test_refusals_are_no_failures(outcome, is_ours):
    assert is_failure(outcome) is is_ours


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        *("grpc://collector:4317", "grpcs://[::1]:4317", "http://h:4318"),
        *("https://h:1/v1/traces", "file:///var/log/traces", "file:///a%20b"),
    ],
)
def test_endpoints_that_can_be_used(endpoint):
    assert TracingSettings(endpoint=endpoint).url.geturl() == endpoint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"endpoint": "collector:4317"}, "tracing.endpoint=collector:4317: must begin with grpc"),
        ({"endpoint": "grpc://collector"}, "host and port"),
        ({"endpoint": "grpc://:4317"}, "host and port"),
        ({"endpoint": "grpc://h:4317/x"}, "has a path"),
        ({"endpoint": "http://user:secret@h:4318"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"endpoint": "http://h:99999"}, "tracing.endpoint"),
        ({"endpoint": "file://relative/path"}, "whole path"),
        ({"endpoint": "file:///"}, "whole path"),
        ({"sample_ratio": 1.5}, "tracing.sample_ratio=1.5: must be a share"),
        ({"sample_ratio": float("nan")}, "tracing.sample_ratio"),
        ({"slow_s": 0}, "tracing.slow_s=0"),
        ({"slow_s": float("inf")}, "tracing.slow_s"),
        ({"buffer_steps": 0}, "tracing.buffer_steps=0"),
    ],
)
def test_a_wrong_setting_is_named(changes, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        TracingSettings(**{"endpoint": "grpc://h:1"} | changes)
