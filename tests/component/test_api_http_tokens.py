"""/tokenize and /detokenize, request ids, and the shape of every error."""

import httpx
import pytest

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import embedded, grpc_channel, http_served, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.inputs import ApiLimits

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
async def client():
    frontend = make_frontend(FakeGateway(Answer(ids_of("ok"))))
    async with http_served(frontend) as url, httpx.AsyncClient(base_url=url) as made:
        made.gateway = frontend.gateway
        yield made


async def test_a_prompt_becomes_ids_and_ids_become_the_prompt(client):
    asked = {"model": "fake", "prompt": "Grüße", "return_token_strs": True}
    made = (await client.post("/tokenize", json=asked)).json()
    assert made["tokens"] == [embedded().bos_id, *ids_of("Grüße")]
    assert (made["count"], made["max_model_len"]) == (len(made["tokens"]), 4096)
    assert len(made["token_strs"]) == made["count"]
    assert made["token_strs"][0] == "<s>"
    back = await client.post("/detokenize", json={"tokens": made["tokens"]})
    assert back.json() == {"prompt": "<s>Grüße"}
    bare = {"prompt": "Grüße", "add_special_tokens": False}
    assert (await client.post("/tokenize", json=bare)).json()["tokens"] == ids_of("Grüße")


@pytest.mark.parametrize(
    "chat",
    [
        {},
        {"tools": [TOOL]},
        {"reasoning_effort": "high"},
        {
            "messages": [*HELLO, {"role": "assistant", "content": "Good"}],
            "continue_final_message": True,
        },
    ],
)
async def test_the_ids_of_a_conversation_are_those_that_a_chat_is_run_with(client, chat):
    body = {"messages": HELLO, **chat}
    made = (await client.post("/tokenize", json=body)).json()
    answered = await client.post("/v1/chat/completions", json=body)
    assert answered.status_code == 200
    assert made["tokens"] == list(client.gateway.runs[0].request.prompt_token_ids)
    assert made["count"] == answered.json()["usage"]["prompt_tokens"]


async def test_grpc_tokenizes_the_same_conversation_to_the_same_ids(client):
    made = (await client.post("/tokenize", json={"messages": HELLO})).json()
    messages = [pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hello")])]
    request = pb.TokenizeRequest(chat=pb.ChatRequest(messages=messages))
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        result = await pb_grpc.InferenceServiceStub(channel).Tokenize(request)
    assert list(result.token_ids) == made["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("/tokenize", {"prompt": "a", "odd": 1}, "odd"),
        ("/detokenize", {"tokens": [5, 9000]}, "tokens[1]"),
        ("/detokenize", {"tokens": [2**70]}, "tokens[0]"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [5] * 300_000}, "tokens"),
    ],
)
async def test_bad_input_is_refused_by_field(client, path, body, field):
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


async def test_another_model_is_not_found(client):
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [5]})):
        response = await client.post(path, json=body | {"model": "gpt"})
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("given", ["trace-7", None, "x" * 200, "a\tb"])
async def test_every_answer_has_the_requests_id_or_a_new_one(client, given):
    headers = {} if given is None else {"X-Request-Id": given}
    for method, path, status in (
        ("GET", "/health", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/v1/chat/completions", 400),
        ("GET", "/v1/chat/completions", 405),
    ):
        response = await client.request(method, path, headers=headers)
        assert response.status_code == status
        [back] = response.headers.get_list("x-request-id")
        assert back == given if given == "trace-7" else len(back) == 32


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not_found_error"),
        ("GET", "/v1/responses/resp_1", 404, "not_found_error"),
        ("DELETE", "/v1/models", 405, "invalid_request_error"),
        ("GET", "/tokenize", 405, "invalid_request_error"),
        ("POST", "/v1/completions", 413, "invalid_request_error"),
    ],
)
async def test_every_refusal_is_an_error_of_openais_shape(method, path, status, kind):
    frontend = make_frontend(FakeGateway(), limits=ApiLimits(max_body_bytes=100))
    async with http_served(frontend) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.request(method, path, content=b" " * 101)
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["type"] == kind


async def test_priority_reaches_the_gateway_from_both_apis(client):
    await client.post("/v1/chat/completions", json={"messages": HELLO, "priority": -3})
    await client.post("/v1/completions", json={"prompt": "a", "priority": 4})
    await client.post("/v1/completions", json={"prompt": "a"})
    gateway = FakeGateway(Answer(ids_of("ok")))
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        await stub.GenerateOnce(pb.GenerateRequest(text="a", priority=7))
    assert [run.request.priority for run in client.gateway.runs] == [-3, 4, 0]
    assert gateway.runs[0].request.priority == 7
    refused = await client.post("/v1/completions", json={"prompt": "a", "priority": 2**40})
    assert refused.json()["error"]["param"] == "priority"
