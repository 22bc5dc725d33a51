"""One trace per request across frontend, gateway and shards; and none where nobody traces."""

import asyncio
import io
import json
import logging
from contextlib import contextmanager
from dataclasses import replace

import grpc
import httpx
import pytest

from galerne.logs import LogSettings, set_up, trace_ids
from galerne.topology import LinkTransport
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc
from helpers.api_servers import grpc_channel, http_served
from helpers.asked import generate, tokens_of
from helpers.cluster import UNHURRIED, Shards
from helpers.fixture_models import topology
from helpers.gateway_process import DEMO_MODEL, GatewayProcess, gateway_settings
from helpers.switchable import PROFILE
from helpers.tracing import (
    ENDPOINT,
    assert_nested,
    children_of,
    spans_of_gateways,
    traced_frontend,
)
from helpers.waiting import until
from router.gateway.host import GatewayHost
from router.tracing import frontend as frontend_traces
from router.tracing import gateway as gateway_traces
from router.tracing.settings import TracingSettings
from shards.checkpoint.open import open_checkpoint

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{CALLER}-01"), ("tracestate", "vendor=value"))
UNSAMPLED = (("traceparent", f"00-{TRACE_ID}-{CALLER}-00"),)
PATIENT = {"slow_s": 1e3}  # nothing is slow


@contextmanager
def traced_gateway(transport, **settings):
    shape = topology(open_checkpoint(DEMO_MODEL).config, ("shard-0", "shard-1"))
    shape = replace(shape, transport=transport)
    shards = Shards(shape, path=DEMO_MODEL, profile=PROFILE)
    told = TracingSettings(**{"endpoint": ENDPOINT} | PATIENT | settings)
    fields = {"checkpoint": DEMO_MODEL, "topology": shape, "tracing": told, "exchange": UNHURRIED}
    host = GatewayHost(gateway_settings(0, **fields), shards)
    try:
        yield host
    finally:
        host.stop()
        shards.close()


@pytest.fixture(scope="module")
def spans():
    with spans_of_gateways() as spans:
        yield spans


@pytest.fixture(scope="module")
def patient(spans):
    """Shards by shared memory; nothing is slow."""
    with traced_gateway(LinkTransport.SHM) as host:
        yield host


@pytest.fixture(scope="module")
def eager(spans):
    """Shards by gRPC; every request is slow."""
    with traced_gateway(LinkTransport.GRPC, slow_s=1e-9) as host:
        yield host


@pytest.fixture(params=["patient", "eager"])
def gateway(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def clean(request):
    yield
    if "spans" in request.fixturenames:
        request.getfixturevalue("spans").clear()


async def ask(frontend, metadata, **sampling):
    async with grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        events = [e async for e in stub.Generate(generate(12, **sampling), metadata=metadata)]
    return tokens_of(events)


def hexadecimal(span):
    return f"{span.context.trace_id:032x}"


async def test_one_trace_from_the_clients_header_to_the_shards(spans, gateway):
    tracer = spans.frontend_tracer(**PATIENT)
    async with traced_frontend(tracer, **{"gateway-0": gateway.address}) as frontend:
        async with http_served(frontend) as url, httpx.AsyncClient() as client:
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            body |= {"model": frontend.model.name, "temperature": 0}
            answer = await client.post(
                f"{url}/v1/chat/completions", json=body, headers=dict(SAMPLED), timeout=60
            )
        assert answer.status_code == 200, answer.text
        found = await until_written(spans, "serve")
    assert {hexadecimal(span) for span in found} == {TRACE_ID}
    (root,) = (span for span in found if span.name == "chat")
    assert f"{root.parent.span_id:016x}" == CALLER
    assert root.context.trace_state.get("vendor") == "value"
    assert_nested(found)
    ids = {span.context.span_id for span in found} | {root.parent.span_id}
    assert all(span.parent.span_id in ids for span in found), "none hangs in the air"
    names = {span.name for span in children_of(found, root)}
    assert names == {"encode", "gateway gateway-0"}
    (served,) = (span for span in found if span.name == "serve")
    assert [s.name for s in sorted(children_of(found, served), key=lambda s: s.start_time)] == [
        *("admit", "queue", "prefill", "decode")
    ]
    parts = {s.resource.attributes["service.instance.id"] for s in found}
    assert {"here", "gateway-0", "shard-0", "shard-1"} <= parts
    usage = answer.json()["usage"]
    assert root.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert served.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert served.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]


async def until_written(spans, name):
    """All spans, once there is one of that name; the gateway writes beside its engine."""
    await until(lambda: spans.named(name))
    return spans.finished()


async def test_the_times_of_a_step_add_up_and_shards_say_what_they_did(spans, gateway):
    tracer = spans.frontend_tracer(**PATIENT)
    async with traced_frontend(tracer, **{"gateway-0": gateway.address}) as frontend:
        await ask(frontend, SAMPLED)
        found = await until_written(spans, "serve")
    steps = [span for span in found if span.name == "step"]
    assert len(steps) == 2  # the slowest of the prompt's, and of those that decode
    num_layers = frontend.model.num_layers
    for step in steps:
        (model,) = (s for s in children_of(found, step) if s.name == "model")
        layers = [s for s in children_of(found, model) if s.name.startswith("layer ")]
        assert len(layers) == num_layers
        for layer in layers:
            parts = [s for s in children_of(found, layer) if s.name != "experts"]
            times = sum(part.end_time - part.start_time for part in parts)
            assert 0 < times <= layer.end_time - layer.start_time
            frames = [s for s in children_of(found, layer) if s.name == "experts"]
            assert frames, "every layer has asked its shards"
            for frame in frames:
                assert frame.attributes["galerne.service_us"] > 0
                assert frame.attributes["galerne.attempt"] == 0
    computed = [span for span in found if span.name == "expert compute"]
    assert len(computed) == len(steps) * num_layers
    assert all(span.end_time > span.start_time for span in computed)


async def test_what_is_not_sampled_and_goes_well_leaves_nothing(spans, patient):
    tracer = spans.frontend_tracer(**PATIENT)
    async with traced_frontend(tracer, **{"gateway-0": patient.address}) as frontend:
        for metadata in (UNSAMPLED, ()):
            assert await ask(frontend, metadata)
        await ask(frontend, SAMPLED)
        found = await until_written(spans, "serve")
    roots = [
        span for span in found if span.parent is None or f"{span.parent.span_id:016x}" == CALLER
    ]
    assert len(roots) == 1, "of three requests one was sampled"
    assert_nothing_is_left(patient)


def assert_nothing_is_left(gateway):
    tracer = gateway._built.tracer
    assert not tracer._open
    assert not tracer._joined
    assert tracer.buffer.num_held == 0
    assert not trace_ids


async def test_tokens_are_the_same_with_traces_and_without(spans, patient, standing):
    tracer = spans.frontend_tracer(**PATIENT)
    addresses = {"gateway-0": patient.address}
    sampling = {"temperature": 1.0, "seed": 3}
    async with traced_frontend(tracer, **addresses) as frontend:
        traced = await ask(frontend, SAMPLED, **sampling)
    async with traced_frontend(None, **{"gateway-0": standing.address}) as frontend:
        assert await ask(frontend, SAMPLED, **sampling) == traced
    assert len(traced) == 12


async def test_without_a_tracer_nothing_is_made(standing, monkeypatch):
    """Neither in the frontend nor at the gateway, whatever the client sends."""
    made = []

    def forbid(module, name):
        kind = getattr(module, name)

        class Forbidden(kind):
            def __init__(self, *args, **fields):
                made.append(name)
                super().__init__(*args, **fields)

        monkeypatch.setattr(module, name, Forbidden)

    for module, name in (
        (frontend_traces, "FrontendTrace"),
        (gateway_traces, "GatewayTrace"),
        (gateway_traces, "ChoiceTrace"),
        (gateway_traces, "StepDetail"),
    ):
        forbid(module, name)
    assert standing._built.tracer is None
    assert standing.engine.timer.watch is None
    async with traced_frontend(None, **{"gateway-0": standing.address}) as frontend:
        assert await ask(frontend, SAMPLED)
    assert made == []
    assert not trace_ids


async def test_a_slow_request_is_kept_although_it_was_not_sampled(spans, eager):
    tracer = spans.frontend_tracer(**PATIENT)
    async with traced_frontend(tracer, **{"gateway-0": eager.address}) as frontend:
        assert await ask(frontend, UNSAMPLED)
        found = await until_written(spans, "serve")
    assert_nothing_is_left(eager)
    kept = {span.name: span.attributes.get("galerne.kept") for span in found}
    assert kept["serve"] == "slow"
    assert kept["generate"] == "kept_below", "the frontend was told"
    assert_nested(found)


async def test_a_client_that_goes_leaves_nothing_behind(spans, patient):
    tracer = spans.frontend_tracer(**PATIENT)
    async with (
        traced_frontend(tracer, **{"gateway-0": patient.address}) as frontend,
        grpc_channel(frontend) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        call = stub.Generate(generate(900), metadata=UNSAMPLED)
        async for event in call:
            if event.HasField("tokens"):
                break
        call.cancel()
        await until(lambda: not patient._built.tracer._open)
        await until(lambda: not trace_ids)
    assert_nothing_is_left(patient)


async def test_a_refused_request_leaves_nothing_behind(spans, patient):
    tracer = spans.frontend_tracer(**PATIENT)
    async with (
        traced_frontend(tracer, **{"gateway-0": patient.address}) as frontend,
        grpc_channel(frontend) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        bad = pb.GenerateRequest(text="x", sampling=pb.SamplingParams(top_p=7))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GenerateOnce(bad, metadata=SAMPLED)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (root,) = spans.named("generate")
    assert root.attributes["galerne.outcome"] == "INVALID_ARGUMENT"
    assert_nothing_is_left(patient)


# -- a failover, and what is logged of it -------------------------------------------------------


@pytest.fixture
def log():
    """Everything that any logger says, as the lines of a process that serves."""
    stream = io.StringIO()
    set_up(LogSettings(format="json", level="debug"), "test", stream)
    logging.getLogger().setLevel(logging.DEBUG)
    return stream


async def test_a_stream_that_moves_is_one_trace_and_its_log_has_no_word_of_the_content(
    spans, eager, log
):
    tracer = spans.frontend_tracer(**PATIENT)
    victim = await asyncio.to_thread(GatewayProcess, 1, speaks=True)
    try:
        async with traced_frontend(tracer, **{"gateway-1": victim.address}) as frontend:
            directory = frontend.gateway._directory
            asked = generate(60)
            asked.text, asked.request_id = "PROMPTLY The Loire ends", "r-1"
            async with grpc_channel(frontend) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                num_tokens = 0
                async for event in stub.Generate(asked, metadata=UNSAMPLED):
                    num_tokens += len(event.tokens.token_ids)
                    if num_tokens >= 5 and victim.is_running:
                        directory.gateways = {"gateway-0": eager.address}
                        victim.kill()
            assert num_tokens == 60
            found = await until_written(spans, "serve")
    finally:
        victim.close()
    assert_one_trace_of_two_turns(found)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (moved,) = (line for line in lines if line["event"] == "stream_moves")
    assert (moved["request"], moved["trace"], moved["process"]) == ("r-1", TRACE_ID, "test")
    (ended,) = (line for line in lines if line["event"] == "request_ended")
    assert (ended["request"], ended["trace"]) == ("r-1", TRACE_ID)
    assert (ended["api"], ended["outcome"]) == ("generate", "length")
    assert "PROMPTLY" not in log.getvalue()
    assert "PROMPTLY" not in "".join(span.to_json() for span in found)


def assert_one_trace_of_two_turns(found):
    assert {hexadecimal(span) for span in found} == {TRACE_ID}
    turns = (span for span in found if span.name.startswith("gateway "))
    first, second = sorted(turns, key=lambda span: span.start_time)
    assert [first.name, second.name] == ["gateway gateway-1", "gateway gateway-0"]
    assert [span.attributes["galerne.attempt"] for span in (first, second)] == [0, 1]
    assert not first.status.is_ok
    assert second.status.is_unset
    (served,) = (span for span in found if span.name == "serve")
    assert served.parent.span_id == second.context.span_id
    assert served.attributes["galerne.resumed_tokens"] >= 5
    assert served.attributes["galerne.kept"] == "retried"
    assert_nested(found)
