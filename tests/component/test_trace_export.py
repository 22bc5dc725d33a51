"""Spans leave the process: by OTLP to a collector's service on loopback, and to files."""

import gzip
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue
from threading import Thread

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from cluster.cli.trace_tree import find, read_spans, split_of, trees
from galerne.errors import ConfigError
from router.tracing.context import as_parent, context_of
from router.tracing.settings import TracingSettings
from router.tracing.spans import SpanData, SpanEvent
from router.tracing.tracer import Tracer

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = context_of((("traceparent", f"00-{TRACE_ID}-{CALLER}-01"), ("tracestate", "v=1")))


def tree():
    compute = SpanData("expert compute", 11.2, 11.4, shard="shard-1")
    frame = SpanData("experts", 11.1, 11.5, {"galerne.rows": 3}, (compute,), shard="shard-1")
    waits = SpanData("experts and wire", 11.05, 11.6)
    event = SpanEvent("preempted", 11.0, {"galerne.step": 4})
    step = SpanData("step", 11.0, 12.0, {}, (waits, frame), (event,), error="planted")
    decode = SpanData("decode", 11.0, 12.0, {}, (step,))
    return SpanData("generate", 10.0, 12.0, {"galerne.request": "r"}, (decode,), is_server=True)


def export(endpoint, **settings):
    """Whether all of a tree left in time."""
    tracer = Tracer(TracingSettings(endpoint=endpoint, **settings), "galerne-gateway", "gateway-0")
    tracer.write(tree(), as_parent(PARENT))
    is_flushed = tracer.flush(60.0)
    tracer.close()
    return is_flushed


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.requests = SimpleQueue()

    def Export(self, request, context):
        self.requests.put(request)
        return collector.ExportTraceServiceResponse()


@contextmanager
def collecting():
    service = Collector()
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(service, server)
        service.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield service
        server.stop(None).wait()


@contextmanager
def collecting_http():
    requests = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            requests.put((self.path, collector.ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, requests
        server.shutdown()
        thread.join()


def told(request):
    """Spans of a request: name -> (service, instance, span)."""
    found = {}
    for resource_spans in request.resource_spans:
        facts = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
        who = facts["service.name"], facts["service.instance.id"]
        for scope_spans in resource_spans.scope_spans:
            found |= {span.name: (*who, span) for span in scope_spans.spans}
    return found


def assert_whole(spans):
    assert set(spans) == {
        *("generate", "decode", "step"),
        *("experts and wire", "experts", "expert compute"),
    }
    root = spans["generate"][2]
    assert root.trace_id.hex() == TRACE_ID
    assert root.parent_span_id.hex() == CALLER
    assert root.trace_state == "v=1"
    assert spans["generate"][:2] == ("galerne-gateway", "gateway-0")
    assert spans["experts"][:2] == ("galerne-shard", "shard-1")
    step = spans["step"][2]
    assert step.parent_span_id == spans["decode"][2].span_id
    assert step.end_time_unix_nano - step.start_time_unix_nano == 10**9
    assert (step.status.message, step.events[0].name) == ("planted", "preempted")


def test_a_collector_gets_all_spans_by_grpc():
    with collecting() as service:
        assert export(f"grpc://127.0.0.1:{service.port}")
        assert_whole(told(service.requests.get(timeout=60)))


def test_a_collector_gets_all_spans_by_http():
    with collecting_http() as (port, requests):
        assert export(f"http://127.0.0.1:{port}")
        path, request = requests.get(timeout=60)
        assert path == "/v1/traces"
        assert_whole(told(request))


def test_files_hold_one_span_a_line_for_their_owner_alone(tmp_path):
    directory = tmp_path / "traces"
    assert export(f"file://{directory}")
    (path,) = directory.iterdir()
    assert path.name.startswith("galerne-gateway-gateway-0-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 6
    with path.open("a") as file:
        file.write(f'{{"half a line of {TRACE_ID}')  # that is being written
    assert read_spans(directory, TRACE_ID) == lines
    assert read_spans(directory, "ab" * 16) == []
    (root,) = trees(lines)
    assert root.name == "generate"
    assert find([root], "decode", "step").error == "planted"
    split = split_of(find([root], "decode", "step"))
    assert split == pytest.approx(
        {"experts and wire": 0.55, "expert compute": 0.2, "rest": 0.45}, abs=1e-5
    )
    child = root.as_json(root.start_s)["children"][0]
    assert (child["name"], child["at_ms"], child["ms"]) == ("decode", 1000.0, 1000.0)


def test_a_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"tracing\.endpoint"):
        export(f"file://{tmp_path}/file")
