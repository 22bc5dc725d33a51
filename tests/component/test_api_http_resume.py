"""Resumable streams over HTTP: chunks have ids, and each continues exactly from any of them."""

import asyncio
import json

import httpx
import pytest

from galerne.v1 import inference_pb2 as pb
from helpers.api_servers import grpc_channel, http_served, ids_of, make_frontend, openai_client
from helpers.fake_gateway import Answer, FakeGateway
from helpers.resuming import open_call, request_of
from router.api.keys import ApiKeys
from router.engine.request import TokenLogprob, TokenLogprobs

CALLS, ARGS, THINK, END_THINK = 9, 32, 34, 35
TALK = ids_of("Grüße 😀 a b ", "STOP")
TOOLS = ids_of(
    THINK, "Hm, 😀", END_THINK, "Ok", CALLS, "f", ARGS, '{"x": "ü"}', CALLS, "f", ARGS, "{}"
)
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
RESUMABLE = {"X-Galerne-Resumable": "true"}
CHAT = {"messages": HELLO, "tools": [TOOL], "n": 2, "logprobs": True, "stop": ["STOP"]}
COMPLETION = {"prompt": "Once", "n": 2, "logprobs": 1, "stop": ["STOP"]}
ECHO = {"prompt": "Once", "n": 2, "echo": True}
BODIES = {"chat/completions": CHAT, "completions": COMPLETION, "completions?echo": ECHO}


def answer_of(ids):
    logprobs = [TokenLogprobs(TokenLogprob(t, -0.25), (TokenLogprob(5, -0.5),)) for t in ids]
    return Answer(ids, logprobs=logprobs)


async def ask(client, path, body, **options):
    body = {"stream": True, "stream_options": {"include_usage": True}} | body
    return await client.post(f"/v1/{path}", json=body, **({"headers": RESUMABLE} | options))


def frames_of(text):
    """(id, data) of every server-sent event."""
    frames = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        frames.append((fields.get("id"), fields["data"]))
    return frames


def body_client(url):
    return httpx.AsyncClient(base_url=url, timeout=20)


@pytest.mark.parametrize("path", BODIES)
async def test_resumed_after_any_chunk_the_rest_is_the_same_byte_for_byte(path):
    gateway = FakeGateway(answer_of(TOOLS), answer_of(TALK))
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        asked = await ask(client, path, BODIES[path])
        frames = frames_of(asked.text)
        assert frames[-1] == (None, "[DONE]")
        assert json.loads(frames[-2][1])["choices"] == []  # the usage, which has the last id
        answer_id = json.loads(frames[0][1])["id"]
        assert answer_id.endswith(asked.headers["x-galerne-request-id"])
        for i, (event_id, _) in enumerate(frames[:-2]):
            again = await client.get(
                f"/v1/streams/{answer_id}", headers={"Last-Event-ID": event_id}
            )
            assert frames_of(again.text) == frames[i + 1 :]
        from_start = await client.get(f"/v1/streams/{asked.headers['x-galerne-request-id']}")
    assert frames_of(from_start.text) == frames


async def test_resumable_chunks_are_those_of_any_other_stream():
    async def said(client, path, headers):
        response = await ask(client, path, BODIES[path] | {"seed": 5}, headers=headers)
        chunks = [json.loads(data) for _, data in frames_of(response.text)[:-1]]
        for chunk in chunks:
            chunk["id"] = chunk["created"] = None
            for call in (
                (chunk["choices"] or [{"delta": {}}])[0].get("delta", {}).get("tool_calls", [])
            ):
                call.pop("id", None)
        return chunks

    gateway = FakeGateway(answer_of(TOOLS), answer_of(TALK))
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        for path in BODIES:
            assert await said(client, path, {}) == await said(client, path, RESUMABLE)


async def test_offset_continues_after_the_text_of_the_tokens_before_it():
    ids = ids_of("one two three four")
    gateway = FakeGateway(answer_of(ids))
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        asked = await ask(client, "chat/completions", {"messages": HELLO})
        name = asked.headers["x-galerne-request-id"]
        for offset in range(len(ids) + 2):
            rest = await client.get(f"/v1/streams/{name}?offset={offset}")
            chunks = [json.loads(data) for _, data in frames_of(rest.text)[:-2]]
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            text = "".join(delta.get("content", "") for delta in deltas)
            assert ids_of(text) == ids[offset:] or not text
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
            assert ("role" in deltas[0]) == (offset == 0)


@pytest.mark.parametrize("leaves", [False, True])
async def test_openai_client_that_leaves_finds_its_stream_again_and_follows_it_live(leaves):
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=ApiKeys(["mine", "other"]))
    key = {"Authorization": "Bearer mine"}
    async with openai_client(frontend, "mine") as client, http_served(frontend) as url:
        asking = asyncio.create_task(
            client.chat.completions.create(
                model="fake", messages=HELLO, stream=True, extra_headers=RESUMABLE
            )
        )
        run = await gateway.next_run()
        run.emit(*ids_of("a"))
        stream = await asking
        role, first = await anext(stream), await anext(stream)
        assert (role.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "a")
        if leaves:
            await stream.close()
        async with body_client(url) as other:
            stranger = {"Authorization": "Bearer other"}
            refused = await other.get(f"/v1/streams/{first.id}", headers=stranger)
            assert refused.status_code == 404
            assert refused.json()["error"]["type"] == "not_found_error"
            back = other.stream("GET", f"/v1/streams/{first.id}?offset=1", headers=key)
            async with back as response:
                run.emit(*ids_of(" day"))
                run.end()
                text = (await response.aread()).decode()
    chunks = [json.loads(data) for _, data in frames_of(text)[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == " day"
    assert not run.aborted.is_set()


async def test_stream_that_a_newer_client_has_ends_with_an_error_that_says_so():
    gateway = FakeGateway()
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        asking = asyncio.create_task(ask(client, "chat/completions", {"messages": HELLO}))
        run = await gateway.next_run()
        run.emit(5)
        name = run.request.request_id
        resuming = asyncio.create_task(client.get(f"/v1/streams/{name}"))
        older = frames_of((await asking).text)
        run.end()
        newer = frames_of((await resuming).text)
    assert "a newer client has resumed it" in json.loads(older[-2][1])["error"]["message"]
    assert json.loads(newer[-2][1])["usage"]


async def test_stream_that_began_over_grpc_goes_on_over_http():
    gateway = FakeGateway(answer_of(TALK))
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel, http_served(frontend) as url:
        for api, field in (("generate", "text"), ("chat", "delta")):
            sampling = pb.SamplingParams(logprobs=1)
            call = open_call(channel, request_of(api, request_id=api, sampling=sampling))
            await call.read()
            call.cancel()
            async with body_client(url) as client:
                response = await client.get(f"/v1/streams/{api}")
            chunks = [json.loads(data) for _, data in frames_of(response.text)[:-1]]
            assert all(field in chunk["choices"][0] for chunk in chunks)
            assert any(chunk["choices"][0]["logprobs"] for chunk in chunks)


@pytest.mark.parametrize(
    ("path", "body", "headers", "field"),
    [
        (
            "chat/completions",
            {"messages": HELLO, "stream": False},
            RESUMABLE,
            "X-Galerne-Resumable",
        ),
        ("completions", {"prompt": ["a", "b"]}, RESUMABLE, "X-Galerne-Resumable"),
        ("completions", {"prompt": "a"}, {"X-Galerne-Resumable": "1"}, "X-Galerne-Resumable"),
    ],
)
async def test_meaningless_wish_is_refused_by_its_header(path, body, headers, field):
    gateway = FakeGateway(answer_of(TALK))
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        options = {"stream_options": None} | body
        refused = await ask(client, path, options, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field
    assert not gateway.runs


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("?offset=-1", {}, "offset"),
        ("?offset=x", {}, "offset"),
        ("?offset=1&offset=2&offset=3", {}, "points"),
        ("", {"Last-Event-ID": "7"}, "Last-Event-ID"),
    ],
)
async def test_bad_place_is_refused_by_field(query, headers, field):
    gateway = FakeGateway(answer_of(TALK))
    async with http_served(make_frontend(gateway)) as url, body_client(url) as client:
        asked = await ask(client, "completions", {"prompt": "a"})
        name = asked.headers["x-galerne-request-id"]
        refused = await client.get(f"/v1/streams/{name}{query}", headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field
