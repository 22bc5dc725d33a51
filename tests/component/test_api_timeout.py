"""A request that is not done in its time ends with an error that says so, and is aborted."""

import asyncio
import json

import grpc
import httpx
import pytest

from galerne.errors import ConfigError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import grpc_channel, http_served, ids_of, make_frontend
from helpers.fake_gateway import FakeGateway
from router.api.inputs import ApiLimits

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
SOON_S = 0.5  # long enough to reach the gateway, on a busy machine too


async def ask(frontend, path="chat/completions", body=CHAT, headers=None):
    async with http_served(frontend) as url, httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{url}/v1/{path}", json=body, headers=headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", CHAT),
        ("chat/completions", CHAT | {"stream": True}),
        ("completions", {"prompt": ["a", "b"]}),
        ("responses", {"input": "Hello"}),
    ],
)
async def test_a_request_without_a_first_token_in_time_is_504_and_aborted(path, body):
    gateway = FakeGateway()
    response = await ask(make_frontend(gateway), path, body | {"timeout": SOON_S})
    error = response.json()["error"]
    assert response.status_code == 504
    assert (error["code"], error["type"], error["param"]) == ("timeout", "server_error", None)
    assert error["message"] == f"not done within its timeout of {SOON_S} s"
    assert gateway.runs
    assert all(run.aborted.is_set() for run in gateway.runs)


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_a_stream_ends_with_the_error_when_its_time_is_over(path):
    gateway = FakeGateway()
    gateway.prepare = lambda run: run.emit(*ids_of("Good"))
    body = {"input": "Hello"} if path == "responses" else CHAT
    response = await ask(make_frontend(gateway), path, body | {"stream": True, "timeout": SOON_S})
    assert response.status_code == 200
    lines = [line for line in response.text.split("\n") if line.startswith("data: {")]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert f"timeout of {SOON_S} s" in json.dumps(last)
    assert gateway.runs[0].aborted.is_set()


@pytest.mark.parametrize("is_header", [True, False])
async def test_the_header_or_the_servers_default_sets_it_where_the_body_does_not(is_header):
    gateway = FakeGateway()
    limits = ApiLimits(request_timeout_s=None if is_header else SOON_S)
    headers = {"X-Request-Timeout": f"{SOON_S}"} if is_header else {}
    response = await ask(make_frontend(gateway, limits=limits), headers=headers)
    assert response.status_code == 504


@pytest.mark.parametrize("value", [0, -1, 1e9, "soon"])
async def test_a_timeout_that_is_none_is_refused_by_name(value):
    frontend = make_frontend(FakeGateway())
    in_body = await ask(frontend, body=CHAT | {"timeout": value})
    in_header = await ask(frontend, headers={"X-Request-Timeout": f"{value}"})
    assert (in_body.status_code, in_body.json()["error"]["param"]) == (400, "timeout")
    assert in_header.status_code == 400
    assert "imeout" in in_header.json()["error"]["param"]


def test_a_default_that_is_none_is_refused_when_it_is_set():
    with pytest.raises(ConfigError, match="request_timeout_s"):
        ApiLimits(request_timeout_s=0)


async def test_a_request_in_time_is_not_touched():
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with http_served(frontend) as url, httpx.AsyncClient(timeout=20) as client:
        body = CHAT | {"timeout": 60}
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body))
        run = await gateway.next_run()
        run.emit(*ids_of("Good"))
        run.end()
        assert (await asking).status_code == 200


async def test_over_grpc_it_is_a_status_or_the_end_of_the_stream():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GenerateOnce(pb.GenerateRequest(text="a", timeout_s=SOON_S))
        gateway.prepare = lambda run: run.emit(5)
        messages = [pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hi")])]
        call = stub.Chat(pb.ChatRequest(messages=messages, timeout_s=SOON_S))
        events = [event async for event in call]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    [end] = [event.finished for event in events if event.HasField("finished")]
    assert (end.reason, f"timeout of {SOON_S} s" in end.error) == (pb.FINISH_REASON_ERROR, True)
    assert all(run.aborted.is_set() for run in gateway.runs)


async def test_a_resumable_request_is_ended_too_and_not_only_parked():
    gateway = FakeGateway()
    headers = {"X-Galerne-Resumable": "true"}
    frontend = make_frontend(gateway)
    response = await ask(frontend, body=CHAT | {"stream": True, "timeout": SOON_S}, headers=headers)
    assert response.status_code == 504
    assert gateway.runs[0].is_over
    await frontend.close()
