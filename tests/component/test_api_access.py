"""Keys, limits, logs and slow clients at real HTTP and gRPC servers."""

import asyncio
import json
import logging
from contextlib import suppress

import grpc
import openai
import pytest

from galerne.errors import OverloadedError
from galerne.v1 import cluster_pb2 as cluster_pb
from galerne.v1 import cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from helpers.api_servers import (
    cluster_served,
    grpc_channel,
    http_served,
    ids_of,
    make_frontend,
    openai_client,
)
from helpers.explained import FakeController, decided
from helpers.fake_gateway import Answer, FakeGateway
from helpers.resuming import read_rest
from helpers.waiting import small_window, until
from router.api import sse
from router.api.audit import AuditLog
from router.api.inputs import ApiLimits
from router.api.keys import ApiKeys

HELLO = [{"role": "user", "content": "Hello"}]


def key_of(key):
    return (("authorization", f"Bearer {key}"),)


def request(text="Hello", **fields):
    return pb.GenerateRequest(text=text, sampling=pb.SamplingParams(max_tokens=50), **fields)


async def test_a_key_above_its_limit_is_429_and_resource_exhausted_with_the_seconds():
    keys = ApiKeys(["few requests_per_min=2", "many"])
    frontend = make_frontend(FakeGateway(Answer(ids_of("ok"))), keys=keys)
    async with openai_client(frontend, api_key="few") as client, grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(2):
            await client.chat.completions.create(model="fake", messages=HELLO)
        with pytest.raises(openai.RateLimitError, match="requests_per_min limit 2") as limited:
            await client.chat.completions.create(model="fake", messages=HELLO)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30
        assert limited.value.type == "rate_limit_error"
        with pytest.raises(grpc.aio.AioRpcError) as exhausted:
            await stub.GenerateOnce(request(), metadata=key_of("few"))
        assert exhausted.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(exhausted.value.trailing_metadata())["retry-after"]) >= 1
        assert "retry in" in exhausted.value.details()
        await stub.GenerateOnce(request(), metadata=key_of("many"))


async def test_tokens_of_a_stream_are_charged_and_its_place_is_free_at_its_end():
    keys = ApiKeys(["k tokens_per_min=20 concurrency=1"])
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=keys)
    async with grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        call = stub.Generate(request(), metadata=key_of("k"))
        run = await gateway.next_run()
        run.emit(*range(1000, 1030))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError, match="concurrency limit 1"):
            await stub.GenerateOnce(request(), metadata=key_of("k"))
        run.end()
        assert (await read_rest(call))[-1].HasField("usage")
        with pytest.raises(grpc.aio.AioRpcError, match="tokens_per_min limit 20"):
            await stub.GenerateOnce(request(), metadata=key_of("k"))


async def test_a_prompt_is_charged_though_its_client_leaves_before_the_first_token():
    keys = ApiKeys(["k tokens_per_min=50"])
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=keys)
    async with grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        gateway.refusal = OverloadedError("queue", 8, 1.5)
        with pytest.raises(grpc.aio.AioRpcError, match="queue"):
            await stub.GenerateOnce(request("word " * 100), metadata=key_of("k"))
        gateway.refusal = None
        call = stub.Generate(request("word " * 100), metadata=key_of("k"))
        run = await gateway.next_run()  # what was refused has cost nothing
        call.cancel()
        await asyncio.wait_for(run.aborted.wait(), 60)
        await until(lambda: frontend.num_running == 0)
        with pytest.raises(grpc.aio.AioRpcError, match="tokens_per_min limit 50"):
            await stub.GenerateOnce(request(), metadata=key_of("k"))


async def test_nobody_ends_the_request_of_another_but_an_operator():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=ApiKeys(["mine", "other"], ["ops"]))
    async with grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for ending in ("mine", "ops"):
            call = stub.Generate(request(request_id=ending), metadata=key_of("mine"))
            (await gateway.next_run()).emit(5)
            await call.read()
            abort = pb.AbortRequest(request_id=ending)
            assert not (await stub.Abort(abort, metadata=key_of("other"))).was_running
            assert (await stub.Abort(abort, metadata=key_of(ending))).was_running
            assert (await read_rest(call))[-1].HasField("usage")


async def test_the_cluster_is_changed_with_an_admin_key_only_and_the_log_says_by_whom(tmp_path):
    keys = ApiKeys(["client name=ci"], ["boss name=ops"])
    frontend = make_frontend(FakeGateway(), keys=keys, audit=AuditLog(tmp_path / "audit"))
    async with (
        cluster_served(FakeController(decided()), frontend) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        await stub.GetTopology(cluster_pb.GetTopologyRequest(), metadata=key_of("client"))
        drain = cluster_pb.DrainRequest(deadline_s=0)
        with pytest.raises(grpc.aio.AioRpcError, match="needs an admin key") as refused:
            await stub.Drain(drain, metadata=key_of("client")).read()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not await frontend.unready_reason()
        told = [p.running async for p in stub.Drain(drain, metadata=key_of("boss"))]
        assert told[-1] == 0
        assert await frontend.unready_reason() == "draining"
    events = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [(e["event"], e["who"], e["what"]) for e in events] == [
        ("key_refused", "ci", "Drain"),
        ("admin_action", "ops", "Drain"),
    ]
    assert events[1]["asked"] == {"deadline_s": 0.0}


async def test_neither_prompts_nor_answers_nor_keys_are_logged(caplog, tmp_path):
    """At the lowest level of every logger of the process, of good requests and of bad ones."""
    caplog.set_level(logging.DEBUG)
    gateway = FakeGateway(Answer(ids_of("ANSWERLY words")))
    audit = AuditLog(tmp_path / "audit")
    frontend = make_frontend(gateway, keys=ApiKeys(["KEYWORD"], ["BOSSWORD"]), audit=audit)
    prompt = "PROMPTLY asked"
    messages = [{"role": "user", "content": prompt}]
    async with openai_client(frontend, "KEYWORD") as client, grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        done = await client.chat.completions.create(model="fake", messages=messages)
        assert "ANSWERLY" in done.choices[0].message.content
        await stub.GenerateOnce(request(prompt), metadata=key_of("KEYWORD"))
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="fake", prompt=prompt, top_p=7)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="KEYWORD2").models.list()
        gateway.prepare = lambda run: run.fail(RuntimeError("planted"))
        gateway.answers = ()
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="fake", messages=messages)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GenerateOnce(request(prompt), metadata=key_of("KEYWORD"))
    # What the clients of this test log of themselves is theirs.
    ours = [r for r in caplog.records if not r.name.startswith(("openai", "httpx", "httpcore"))]
    text = "\n".join(logging.Formatter("%(name)s %(message)s").format(r) for r in ours)
    text += (tmp_path / "audit").read_text()
    assert "planted" in text, "the failure itself is told"
    for secret in ("PROMPTLY", "ANSWERLY", "KEYWORD", "BOSSWORD"):
        assert secret not in text


async def test_a_body_that_drips_is_given_up_in_time_and_its_connection_closed():
    frontend = make_frontend(FakeGateway(), limits=ApiLimits(body_timeout_s=0.2))
    async with http_served(frontend) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")

        async def drip():
            for _ in range(900):
                writer.write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        head = await asyncio.wait_for(reader.read(4096), 60)
        with suppress(ConnectionError):  # what drips on is answered by a reset
            await asyncio.wait_for(reader.read(), 60)  # to its end
        dripping.cancel()
        writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_does_not_read_is_given_up_and_its_request_ended(monkeypatch):
    monkeypatch.setattr(
        "router.api.http_generate.EventStreamResponse",
        lambda events, source: sse.EventStreamResponse(events, source, stall_timeout_s=0.2),
    )
    gateway = FakeGateway()
    async with http_served(make_frontend(gateway)) as url:
        port = url.rpartition(":")[2]
        reader, writer = await asyncio.open_connection(sock=small_window(int(port)), limit=1024)
        body = json.dumps(
            {"model": "fake", "prompt": "x", "stream": True, "max_tokens": 4000}
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        run = await gateway.next_run()
        text = ids_of("word " * 4000)
        for start in range(4000):  # 200 tokens each, until it was given up
            if run.aborted.is_set():
                break
            run.emit(*text[:200])
            if start % 20 == 0:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(run.aborted.wait(), 60)
        writer.close()
        del reader


async def test_a_grpc_client_that_does_not_read_is_given_up_and_its_request_ended(monkeypatch):
    monkeypatch.setattr("router.api.grpc_servicer.STALL_TIMEOUT_S", 0.2)
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        sampling = pb.SamplingParams(max_tokens=4000)
        call = stub.Generate(pb.GenerateRequest(text="x", sampling=sampling))
        run = await gateway.next_run()
        text = ids_of("word " * 200)[:200]
        for start in range(4000):  # until it was given up
            if run.aborted.is_set():
                break
            run.emit(*text)
            if start % 20 == 0:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(run.aborted.wait(), 60)
        await until(lambda: frontend.num_running == 0)
        call.cancel()
