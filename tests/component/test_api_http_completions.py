import asyncio

import httpx
import openai
import pytest

from galerne.errors import ShardUnavailableError
from helpers.api_servers import embedded, http_served, ids_of, make_frontend, openai_client
from helpers.fake_gateway import Answer, FakeGateway
from router.api.inputs import ApiLimits
from router.api.keys import ApiKeys
from router.engine.gateway_port import ClusterFacts
from router.engine.request import FinishReason, TokenLogprob, TokenLogprobs


def answer(*parts, **options) -> Answer:
    return Answer(ids_of(*parts), **options)


def logprobs_of(ids) -> list[TokenLogprobs]:
    return [TokenLogprobs(TokenLogprob(t, -1.0), (TokenLogprob(t, -1.0),)) for t in ids]


async def ask(client, **options):
    return await client.completions.create(**({"model": "fake", "prompt": "Once"} | options))


async def test_every_form_of_prompt_is_taken():
    gateway = FakeGateway(answer(" upon"))
    async with openai_client(make_frontend(gateway)) as client:
        one = await ask(client, prompt="Once")
        two = await ask(client, prompt=["Once", "Twice"])
        ids = await ask(client, prompt=[5, 6, 7])
        lists = await ask(client, prompt=[[5, 6], [7]])
    assert [c.text for c in one.choices] == [" upon"]
    assert [(c.index, c.text) for c in two.choices] == [(0, " upon"), (1, " upon")]
    assert [c.finish_reason for c in two.choices] == ["stop"] * 2
    assert len(ids.choices) == 1
    prompts = [run.request.prompt_token_ids for run in gateway.runs]
    bos = embedded().bos_id
    assert prompts[:3] == [(bos, *ids_of("Once"))] * 2 + [(bos, *ids_of("Twice"))]
    assert prompts[3:] == [(5, 6, 7), (5, 6), (7,)]
    assert lists.usage.prompt_tokens == 3
    assert gateway.runs[0].request.sampling.max_tokens == 16


async def test_stream_of_prompts_times_choices_gives_every_index_its_text():
    gateway = FakeGateway(answer(" one two"), answer(" three"))
    async with openai_client(make_frontend(gateway)) as client:
        options = {"prompt": ["A", "B"], "n": 2, "stream": True, "echo": True}
        chunks = [
            chunk
            async for chunk in await ask(client, stream_options={"include_usage": True}, **options)
        ]
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "A one two", 1: "A three", 2: "B one two", 3: "B three"}
    reasons = [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason]
    assert reasons == ["stop"] * 4
    num_tokens = 2 * (len(ids_of(" one two", " three")) + 2)
    assert chunks[-1].usage.completion_tokens == num_tokens


async def test_echo_with_log_probabilities_covers_the_prompt():
    prompt = (embedded().bos_id, *ids_of("Once"))
    ids = ids_of(" upon")
    gateway = FakeGateway(Answer(ids, reason=FinishReason.LENGTH, logprobs=logprobs_of(ids)))
    gateway.prepare = lambda run: setattr(run, "prompt_logprobs", [None, *logprobs_of(prompt[1:])])
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, echo=True, logprobs=1)
        judged = await ask(client, echo=True, logprobs=1, max_tokens=0)
    [choice] = completion.choices
    assert choice.text == "Once upon"
    assert choice.logprobs.tokens[0] == "<s>"
    assert "".join(choice.logprobs.tokens[1:]) == "Once upon"
    assert choice.logprobs.token_logprobs == [None] + [-1.0] * (len(prompt) - 1 + len(ids))
    assert choice.logprobs.text_offset[:2] == [0, 0]
    assert choice.logprobs.text_offset[len(prompt)] == len("Once")
    assert judged.choices[0].text == "Once"
    assert len(judged.choices[0].logprobs.tokens) == len(prompt)


async def test_streamed_log_probabilities_are_those_of_the_whole_answer():
    ids = ids_of("Grüße 😀")
    gateway = FakeGateway(Answer(ids, reason=FinishReason.LENGTH, logprobs=logprobs_of(ids)))
    async with openai_client(make_frontend(gateway)) as client:
        whole = (await ask(client, logprobs=1)).choices[0].logprobs
        chunks = [chunk async for chunk in await ask(client, logprobs=1, stream=True)]
    pieces = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [t for p in pieces for t in p.tokens] == whole.tokens
    assert [t for p in pieces for t in p.text_offset] == whole.text_offset
    assert any(token.startswith("bytes:\\x") for token in whole.tokens)


async def test_prompt_log_probabilities_come_by_token_id():
    gateway = FakeGateway(answer("x"))
    gateway.prepare = lambda run: setattr(run, "prompt_logprobs", [None, *logprobs_of([6, 7])])
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, prompt=[5, 6, 7], extra_body={"prompt_logprobs": 1})
    first, *rest = completion.choices[0].prompt_logprobs
    assert first is None
    assert [entry[str(t)]["logprob"] for entry, t in zip(rest, (6, 7), strict=True)] == [-1.0] * 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, None),
        ({"prompt": [5, 9999]}, "prompt[1]"),
        ({"prompt": ["a", ""] * 65}, "prompt"),
        ({"prompt": "word " * 5000}, "prompt"),
        ({"prompt": "a" * 300_000}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
async def test_bad_input_is_refused_by_field(options, field):
    gateway = FakeGateway(answer("ok"))
    async with openai_client(make_frontend(gateway)) as client:
        if field is None:  # <s> alone is a prompt
            assert (await ask(client, **options)).choices[0].text == "ok"
            return
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **options)
    assert caught.value.param == field
    assert not gateway.runs


@pytest.mark.parametrize("is_stream", [False, True])
async def test_refusal_of_one_prompt_refuses_all_and_aborts_the_others(is_stream):
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with openai_client(frontend) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, prompt=[[5], [6], [9999]], stream=is_stream)
    assert caught.value.param == "prompt[0]"
    assert all(run.aborted.is_set() for run in gateway.runs)
    await asyncio.wait_for(frontend.drain(), 60)


async def test_error_of_one_prompt_ends_the_stream_with_one_error_event():
    gateway = FakeGateway()
    async with http_served(make_frontend(gateway)) as url, httpx.AsyncClient() as client:
        body = {"prompt": ["a", "b"], "stream": True}
        asking = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        first, second = await gateway.next_run(), await gateway.next_run()
        first.emit(5)
        second.emit(5)
        first.fail(ShardUnavailableError("shard-0", 1.0))
        response = await asking
        await asyncio.wait_for(second.aborted.wait(), 60)
    assert response.status_code == 200
    assert response.text.count('"error"') == 1
    assert response.text.endswith("data: [DONE]\n\n")


async def test_key_is_asked_for_under_v1_only():
    frontend = make_frontend(FakeGateway(answer("ok")), keys=ApiKeys(["sesame"]))
    async with openai_client(frontend, api_key="sesame") as client:
        await ask(client)
        assert [m.id async for m in client.models.list()] == ["fake"]
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask(client.with_options(api_key="wrong"))
        assert caught.value.code == "invalid_api_key"
        async with httpx.AsyncClient(base_url=str(client.base_url)) as plain:
            for path in ("/health", "/ready", "/metrics"):
                assert (await plain.get(str(client.base_url.join(path)))).status_code == 200


async def test_body_above_the_limit_is_413_with_or_without_a_length():
    frontend = make_frontend(FakeGateway(answer("ok")), limits=ApiLimits(max_body_bytes=1000))

    async def chunks():
        for _ in range(20):
            yield b" " * 100

    async with http_served(frontend) as url, httpx.AsyncClient() as client:
        for content in (b" " * 2000, chunks()):
            response = await client.post(f"{url}/v1/completions", content=content)
            assert response.status_code == 413
            assert response.json()["error"]["param"] == "body"


async def test_what_is_no_json_or_no_route_is_an_openai_error():
    async with http_served(make_frontend(FakeGateway())) as url, httpx.AsyncClient() as client:
        bad_json = await client.post(f"{url}/v1/completions", content=b"{oops")
        no_route = await client.get(f"{url}/v1/nothing")
        no_method = await client.get(f"{url}/v1/completions")
        no_model = await client.get(f"{url}/v1/models/some/other")
    assert (bad_json.status_code, bad_json.json()["error"]["param"]) == (400, "body")
    assert (no_route.status_code, no_route.json()["error"]["type"]) == (404, "not_found_error")
    assert (no_method.status_code, no_method.json()["error"]["code"]) == (405, None)
    assert (no_model.status_code, no_model.json()["error"]["code"]) == (404, "model_not_found")


async def test_ready_says_why_not():
    gateway = FakeGateway()
    async with http_served(make_frontend(gateway)) as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/ready")).status_code == 200
        gateway.unready = "no shard holds layer 3"
        response = await client.get(f"{url}/ready")
        assert (await client.get(f"{url}/health")).status_code == 200
    assert response.status_code == 503
    assert response.json()["reason"] == "no shard holds layer 3"


async def test_metrics_page_has_all_processes_apart():
    gateway = FakeGateway(answer("one two three"))
    text = b"# HELP galerne_steps_total Steps\n# TYPE galerne_steps_total counter\n"
    gateway.cluster_now = ClusterFacts(
        mode="latency",
        epoch=1,
        process_metrics={
            "gateway-0": text + b"galerne_steps_total 5.0\n",
            "shard-0": text + b'galerne_steps_total{layer="1"} 7.0\n',
            "shard-1": b"{{{ not metrics",
        },
    )
    async with openai_client(make_frontend(gateway)) as client:
        await ask(client)
        async with httpx.AsyncClient() as plain:
            response = await plain.get(str(client.base_url.join("/metrics")))
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    assert 'galerne_steps_total{process="gateway-0"} 5.0' in lines
    assert 'galerne_steps_total{layer="1",process="shard-0"} 7.0' in lines
    assert lines.count("# TYPE galerne_steps_total counter") == 1
    ended = 'galerne_requests_total{api="generate",outcome="stop",process="frontend"} 1.0'
    assert ended in lines
    first = 'galerne_time_to_first_token_seconds_count{api="generate",process="frontend"} 1.0'
    assert first in lines
    num_tokens = len(ids_of("one two three")) + 1
    assert f'galerne_completion_tokens_total{{process="frontend"}} {float(num_tokens)}' in lines
