"""A real ingress on a real Ray, in front of a real gateway that runs in the test's process."""

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from openai import AsyncOpenAI, BadRequestError, OpenAI

from galerne.v1 import cluster_pb2 as cluster_pb
from galerne.v1 import cluster_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.ingress_server import MODEL, TOKEN, IngressServer
from helpers.processes import family, haproxies, listening
from helpers.waiting import until, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

KEY, FEW_PER_MIN = "test-key", 6
WITH_KEY = (("authorization", f"Bearer {KEY}"),)
HEALTH = health_pb2.HealthCheckResponse
ON_LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.fixture(
    scope="module", params=["HAProxy", pytest.param("Serve proxy", marks=pytest.mark.slow)]
)
def server(request, gateway):
    roster = {
        "mode": "latency",
        "epoch": 1,
        "gateways": {"gateway-0": gateway.address},
        "shards": {"shard-0": "127.0.0.1:5"},
    }
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "HAProxy":
            patch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/no/haproxy")
        two = {"at_least": 2, "at_most": 2}
        keys = [KEY, f"few requests_per_min={FEW_PER_MIN}"]
        admins = ["ops-key name=ops"]
        running = IngressServer(roster, frontends=two, api_keys=keys, admin_keys=admins)
    running.gateway = gateway
    yield running
    running.stop()


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(server.started["grpc"]) as channel:
        yield channel


@pytest.fixture
async def stub(channel):
    """The service's methods, called with the key."""
    plain = pb_grpc.InferenceServiceStub(channel)

    def with_key(name):
        return lambda request: getattr(plain, name)(request, metadata=WITH_KEY)

    names = ("Generate", "GenerateOnce", "Chat", "Tokenize", "GetModelInfo", "GetServerInfo")
    names += ("ResumeGenerate", "ResumeChat")
    return SimpleNamespace(**{name: with_key(name) for name in names})


@pytest.fixture
async def openai(server):
    url = f"http://{server.started['http']}/v1"
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def prompt(max_tokens=4, **fields):
    sampling = pb.SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return pb.GenerateRequest(text="Once upon a time", sampling=sampling, **fields)


def is_idle(gateway):
    load = gateway.engine.load()
    return load.running + load.waiting == 0


async def test_chat_streams_to_an_openai_client(openai):
    stream = await openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=6, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert len(chunks) > 2
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


async def test_http_and_grpc_give_the_same_tokens(openai, stub):
    over_grpc = (await stub.GenerateOnce(prompt(8))).choices[0]
    over_http = await openai.completions.create(
        model=MODEL,
        prompt="Once upon a time",
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert len(over_grpc.token_ids) == 8
    assert over_http.choices[0].text == over_grpc.text


async def test_facts_pass_through(stub):
    model = await stub.GetModelInfo(pb.GetModelInfoRequest())
    shape = await stub.GetServerInfo(pb.GetServerInfoRequest())
    ids = await stub.Tokenize(pb.TokenizeRequest(text="Hello"))
    assert (model.name, model.vocab_size) == (MODEL, 8192)
    assert (shape.mode, list(shape.gateways)) == ("latency", ["gateway-0"])
    assert len(ids.token_ids) > 1


async def test_bad_input_is_invalid_argument_and_names_the_field(stub):
    wrong = prompt()
    wrong.sampling.top_p = 2.0
    for call in (stub.GenerateOnce(wrong), stub.Generate(wrong).read()):
        with pytest.raises(grpc.aio.AioRpcError, match=r"top_p") as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_details_of_errors_and_request_ids_pass_through(server, channel):
    plain = pb_grpc.InferenceServiceStub(channel)
    metadata = (*WITH_KEY, ("x-request-id", "trace-7"))
    call = plain.Generate(prompt(), metadata=metadata)
    assert [event async for event in call][-1].HasField("usage")
    assert dict(await call.trailing_metadata())["x-request-id"] == "trace-7"
    url = f"http://{server.started['http']}/v1/models"
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "trace-7"}
    async with httpx.AsyncClient() as client:
        answer = await client.get(url, headers=headers)
    assert answer.headers.get_list("x-request-id") == ["trace-7"]
    if server.started["mode"] != "HAProxy":
        return  # Serve's own proxy drops the trailers of errors
    wrong = prompt()
    wrong.sampling.top_p = 2.0
    calls = (plain.GenerateOnce, lambda *a, **kw: plain.Generate(*a, **kw).read())
    for ask in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(wrong, metadata=metadata)
        details = rpc_status.from_call(caught.value).details
        assert any(b"top_p" in detail.value for detail in details)
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "trace-7"


async def test_missing_key_is_unauthenticated_and_health_is_open(server, channel):
    plain = pb_grpc.InferenceServiceStub(channel)
    for call in (plain.GenerateOnce(prompt()), plain.Generate(prompt()).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    async with httpx.AsyncClient(base_url=f"http://{server.started['http']}") as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/ready")).json() == {"status": "ready"}


async def test_health_and_reflection_pass_through(channel):
    health = health_pb2_grpc.HealthStub(channel)
    named = health_pb2.HealthCheckRequest(service="galerne.v1.InferenceService")
    assert (await health.Check(named)).status == HEALTH.SERVING
    watch = health.Watch(named)
    assert (await watch.read()).status == HEALTH.SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    answer = await reflection.ServerReflectionInfo(iter([question])).read()
    services = {service.name for service in answer.list_services_response.service}
    assert {"galerne.v1.InferenceService", "grpc.health.v1.Health"} <= services


async def test_client_that_leaves_a_grpc_stream_aborts_at_the_gateway(server, stub):
    await until(lambda: is_idle(server.gateway))
    call = stub.Generate(prompt(16000))
    await call.read()
    assert not is_idle(server.gateway)
    call.cancel()
    await until(lambda: is_idle(server.gateway), 20.0)  # alone it would run for longer


async def test_client_that_leaves_an_sse_stream_aborts_at_the_gateway(server, openai):
    await until(lambda: is_idle(server.gateway))
    stream = await openai.completions.create(
        model=MODEL, prompt="a", max_tokens=16000, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(aiter(stream))
    assert not is_idle(server.gateway)
    await stream.close()
    await until(lambda: is_idle(server.gateway), 20.0)  # alone it would run for longer


async def test_client_that_leaves_a_resumable_stream_comes_back_over_grpc_and_http(server, stub):
    call = stub.Generate(prompt(400, request_id="resumable", resumable=True))
    had = [await call.read() for _ in range(5)]
    call.cancel()
    point = pb.ResumePoint(offset=4, events=0)
    back = stub.ResumeGenerate(pb.ResumeRequest(request_id="resumable", points=[point]))
    had += [event async for event in back][1:]
    offsets = [event.tokens.offset for event in had if event.HasField("tokens")]
    assert offsets == list(range(400))
    assert had[-1].usage.completion_tokens == 400
    url = f"http://{server.started['http']}/v1/streams/resumable?offset=398"
    async with httpx.AsyncClient(headers=dict(WITH_KEY), timeout=20) as client:
        rest = (await client.get(url)).text
    assert "id: 400.1\n" in rest
    assert rest.endswith("data: [DONE]\n\n")


async def test_more_than_a_hundred_streams_are_open_on_one_connection(server, stub):
    """HAProxy's own limit is 100; the others would wait unseen."""
    await until(lambda: is_idle(server.gateway))
    calls = [stub.Generate(prompt(2000)) for _ in range(120)]

    def are_open():  # on a busy machine the first may end before the last has come
        load = server.gateway.engine.load()
        return load.running + load.waiting > 100

    await until(are_open, 60.0)
    for call in calls:
        call.cancel()
    await until(lambda: is_idle(server.gateway))


def test_every_port_listens_on_loopback_only(server):
    found = {(name, address) for name, address, _ in listening(family(server.started["pid"]))}
    assert len(found) > 5
    assert {(name, address) for name, address in found if address not in ON_LOOPBACK} == set()
    assert Path(server.started["run"]).stat().st_mode & 0o777 == 0o700


def test_a_key_has_its_limit_once_over_both_frontends(server):
    url, started_s = f"http://{server.started['http']}/v1/completions", time.monotonic()
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
    statuses = [
        httpx.post(url, json=body, headers={"Authorization": "Bearer few"}, timeout=20).status_code
        for _ in range(20)
    ]
    assert set(statuses) == {200, 429}
    filled = FEW_PER_MIN * (time.monotonic() - started_s) / 60
    assert FEW_PER_MIN <= statuses.count(200) <= FEW_PER_MIN + filled


def test_keys_are_rotated_while_the_server_runs(server):
    url = f"http://{server.started['http']}/v1/models"

    def status(key):
        bearer = {"Authorization": f"Bearer {key}"}
        return httpx.get(url, headers=bearer, timeout=60).status_code

    assert status("new-key") == 401
    Path(server.started["run"], "keys").write_text(f"{KEY}\nnew-key\n")
    wait_until(lambda: status("new-key") == 200)
    assert status(KEY) == 200


def test_a_client_cannot_drain_and_the_audit_log_says_who_tried(server):
    with grpc.insecure_channel(server.started["grpc"]) as channel:
        cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="needs an admin key") as refused:
            next(cluster.Drain(cluster_pb.DrainRequest(), metadata=WITH_KEY, timeout=20))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    audit = Path(server.started["run"], "audit.jsonl").read_text()
    last = json.loads(audit.splitlines()[-1])
    assert (last["event"], last["what"]) == ("key_refused", "Drain")


def test_logs_of_ray_serve_and_haproxy_hold_neither_prompts_nor_keys(server):
    secret = "Aldebaran-and-Betelgeuse"
    url = f"http://{server.started['http']}/v1"
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        messages = [{"role": "user", "content": secret}]
        client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
        with pytest.raises(BadRequestError):
            client.completions.create(model=MODEL, prompt=secret, top_p=7)
    with grpc.insecure_channel(server.started["grpc"]) as channel:
        request = pb.GenerateRequest(text=secret, sampling=pb.SamplingParams(max_tokens=2))
        pb_grpc.InferenceServiceStub(channel).GenerateOnce(request, metadata=WITH_KEY, timeout=20)
    time.sleep(1.0)  # logs are written behind
    hidden = ("keys", "admins", "token")  # the secrets themselves
    run = Path(server.started["run"])
    files = [f for f in run.rglob("*") if f.is_file() and f.name not in hidden]
    assert any("serve" in str(file) for file in files), "these are the logs that were meant"
    for file in files:
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # Ray has done with it
            continue
        for word in (secret, KEY, "ops-key", TOKEN):
            assert word.encode() not in content, (file, word)


async def rest_of(call):
    """Messages until the server ends the stream, with status OK."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    assert await call.code() is grpc.StatusCode.OK
    return messages


def is_there(path):
    return Path(path).exists()


def test_an_haproxy_that_dies_is_started_again(server, record_property):
    def is_ready():
        try:
            return httpx.get(f"http://{server.started['http']}/ready", timeout=60).is_success
        except httpx.TransportError:
            return False

    if server.started["mode"] != "HAProxy":
        pytest.skip("there is none")
    for process in haproxies(Path(server.started["run"])):
        process.kill()
        process.wait(60)
    record_property("away_s", wait_until(is_ready))


async def test_nothing_is_lost_with_the_controller(server, stub):
    assert server.ask("address_of", shard="shard-0")["address"] == "127.0.0.1:5"
    server.ask("kill_controller")
    assert server.ask("address_of", shard="shard-0")["address"] == "127.0.0.1:5"
    assert server.ask("address_of", shard="shard-9")["address"] is None
    await asyncio.sleep(1.5)  # a refresh of the roster fails meanwhile
    assert len((await stub.GenerateOnce(prompt(4))).choices[0].token_ids) == 4


async def test_close_drains_tells_watchers_and_frees_the_ports(server, channel, stub):
    """Last: it ends the server."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == HEALTH.SERVING
    short, long = stub.Generate(prompt(60)), stub.Generate(prompt(16000))
    await asyncio.gather(short.read(), long.read())
    all_of_it = await asyncio.to_thread(family, server.started["pid"])

    closing = asyncio.create_task(asyncio.to_thread(server.ask, "close", drain_s=5.0))
    ends = [(await rest_of(call))[-2].finished.reason for call in (short, long)]
    assert ends[0] == pb.FINISH_REASON_LENGTH
    assert ends[1] == pb.FINISH_REASON_ABORT
    assert [response.status for response in await rest_of(watch)] == [HEALTH.NOT_SERVING]
    await closing
    for address in (server.started["http"], server.started["grpc"]):
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection(*address.split(":"))

    assert await asyncio.to_thread(server.stop) == 0
    assert not is_there(server.started["run"])
    _, alive = psutil.wait_procs(all_of_it, timeout=60)
    assert [process.pid for process in alive if process.pid != os.getpid()] == []
