"""What the frontend counts of clients, their limits, and answers over HTTP."""

import asyncio

import httpx

from galerne.errors import OverloadedError
from helpers.api_servers import http_served, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from helpers.waiting import until
from router.api.events import Usage
from router.api.keys import ApiKeys
from router.api.metrics import MAX_CLIENTS, FrontendMetrics

KEYS = ("key-a name=team-a", "key-few name=few requests_per_min=1")
BODY = {"messages": [{"role": "user", "content": "Hello"}]}


def counted(frontend, name, **labels):
    return frontend.metrics.set.registry.get_sample_value(f"galerne_{name}", labels) or 0


def one_answer():
    return FakeGateway(Answer(ids_of("Good day")))


async def ask(url, key=None, path="/v1/chat/completions"):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient() as client:
        return await client.post(f"{url}{path}", json=BODY, headers=headers)


async def test_requests_and_tokens_are_told_by_the_name_of_the_key():
    frontend = make_frontend(one_answer(), keys=ApiKeys(KEYS))
    async with http_served(frontend) as url:
        usage = (await ask(url, "key-a")).json()["usage"]
    assert counted(frontend, "client_requests_total", client="team-a") == 1
    for kind in ("prompt", "completion"):
        tokens = counted(frontend, "client_tokens_total", client="team-a", kind=kind)
        assert tokens == usage[f"{kind}_tokens"]
    assert counted(frontend, "model_requests_total", model="fake") == 1
    assert counted(frontend, "request_prompt_tokens_sum") == usage["prompt_tokens"]


async def test_a_refusal_is_counted_by_the_limit_or_by_what_is_wrong_with_the_key():
    frontend = make_frontend(one_answer(), keys=ApiKeys(KEYS))
    async with http_served(frontend) as url:
        keys = ("key-few", "key-few", "key-x", None)
        statuses = [(await ask(url, key)).status_code for key in keys]
    assert statuses == [200, 429, 401, 401]
    assert counted(frontend, "requests_limited_total", limit="requests_per_min") == 1
    assert counted(frontend, "key_refusals_total", reason="wrong_key") == 1
    assert counted(frontend, "key_refusals_total", reason="no_key") == 1
    for code, number in (("200", 1), ("429", 1), ("401", 2)):
        labels = {"route": "/v1/chat/completions", "code": code}
        assert counted(frontend, "http_responses_total", **labels) == number
    assert counted(frontend, "client_requests_total", client="few") == 2


async def test_an_error_that_nobody_foresaw_is_counted_as_the_500_that_it_is(monkeypatch):
    frontend = make_frontend(one_answer())

    async def fail():
        raise RuntimeError("a defect")

    monkeypatch.setattr(frontend, "unready_reason", fail)
    async with http_served(frontend) as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/ready")).status_code == 500
    assert counted(frontend, "http_responses_total", route="/ready", code="500") == 1


async def test_a_client_that_leaves_in_the_midst_of_its_body_is_no_error_of_the_server(caplog):
    frontend = make_frontend(FakeGateway())
    async with http_served(frontend) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.1)  # it waits for more
        writer.transport.abort()
        route = "/v1/completions"
        await until(lambda: counted(frontend, "http_responses_total", route=route, code="499"))
    assert not counted(frontend, "http_responses_total", route=route, code="500")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_clients_beyond_the_bound_are_counted_together():
    metrics = FrontendMetrics()
    usage = Usage(prompt_tokens=3, completion_tokens=1, cached_tokens=0)
    for number in range(MAX_CLIENTS + 5):
        metrics.running.inc()
        metrics.used(f"client-{number}", usage)
        metrics.ended(f"client-{number}", "chat", "stop", 1.0)
    read = metrics.set.registry.get_sample_value
    assert read("galerne_client_requests_total", {"client": "other"}) == 5
    assert read("galerne_client_tokens_total", {"client": "other", "kind": "prompt"}) == 15
    assert read("galerne_client_requests_total", {"client": "client-0"}) == 1


def test_a_full_gateway_and_a_full_frontend_are_told_apart():
    metrics = FrontendMetrics()
    metrics.note_limit(OverloadedError("frontend", 5, 1.0))
    metrics.note_limit(OverloadedError("request queue", 5, 1.0))
    read = metrics.set.registry.get_sample_value
    limits = ("frontend", "request_queue", "gateway")
    found = [read("galerne_requests_limited_total", {"limit": limit}) for limit in limits]
    assert found == [1, 1, 0]
