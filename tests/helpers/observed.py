"""Traces and log levels of a running ``galerne serve``."""

import secrets
from pathlib import Path

import grpc
import httpx

from cluster.cli.trace_tree import find, read_spans, trees
from galerne.v1 import inference_pb2_grpc
from helpers.asked import generate
from helpers.serve_process import run_cli
from helpers.waiting import wait_until

ENDPOINT, FILE = "--trace-endpoint", "file://"


def flags_for(tmp_path_factory):
    """Traces go to a directory; only what a client asks for is kept."""
    patient = ("--trace-sample-ratio", "0", "--trace-slow-s", "1000")
    return (ENDPOINT, f"{FILE}{tmp_path_factory.mktemp('traces')}", *patient)


def assert_observed(server, num_shards):
    """By HTTP and by gRPC, and every process' log."""
    assert_trace_goes_on(server, "http")
    assert_trace_goes_on(server, "grpc")
    assert_levels_change(server.grpc, num_shards)


def assert_trace_goes_on(server, way):
    """A request by ``http`` or ``grpc`` is one trace with its caller, down to four shards."""
    traces = Path(server.process.args[server.process.args.index(ENDPOINT) + 1].removeprefix(FILE))
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    headers = (("traceparent", f"00-{trace_id}-{caller}-01"), ("tracestate", "vendor=value"))
    if way == "http":
        body = {"model": server.model, "prompt": "Hello", "max_tokens": 8}
        url = f"http://{server.http}/v1/completions"
        assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
    else:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            list(stub.Generate(generate(8), metadata=headers, timeout=60))

    def is_whole():
        roots = trees(read_spans(traces, trace_id))
        return len(roots) == 1 and find(roots, "generate", "serve", "decode", "step") is not None

    wait_until(is_whole)
    spans = read_spans(traces, trace_id)
    (root,) = (span for span in spans if span["parent_id"] == f"0x{caller}")
    assert root["name"] == "generate"
    assert "vendor" in root["context"]["trace_state"]
    parts = {span["resource"]["attributes"]["service.instance.id"] for span in spans}
    assert {"gateway-0", "shard-0", "shard-1", "shard-2", "shard-3"} <= parts


def assert_levels_change(target, num_shards):
    """All at once, one alone, and none that there is not."""
    changed = run_cli("log-level", "info", "--target", target)
    assert changed.returncode == 0, changed.stderr
    parts = changed.stdout.strip().removeprefix("info: ").split(", ")
    shards = [f"shard-{i}" for i in range(num_shards)]
    assert sorted(parts) == sorted(["frontend", "controller", "server", "gateway-0", *shards])
    back = run_cli("log-level", "gateway-0", "warning", "--target", target)
    assert back.stdout.strip() == "warning: gateway-0"
    assert run_cli("log-level", "warning", "--target", target).returncode == 0
    wrong = run_cli("log-level", "shard-9", "info", "--target", target)
    assert wrong.returncode == 1
    assert "part: must be one of" in wrong.stderr
