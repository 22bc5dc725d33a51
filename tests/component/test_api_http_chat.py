import asyncio
import json

import httpx
import openai
import pytest

from galerne.errors import OverloadedError, ShardUnavailableError
from helpers.api_servers import embedded, http_served, ids_of, make_frontend, openai_client
from helpers.fake_gateway import EOS, Answer, FakeGateway
from router.engine.request import FinishReason, TokenLogprob, TokenLogprobs

THINK, END_THINK, CALLS, ARGS = 34, 35, 9, 32
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def answer(*parts, **options) -> Answer:
    return Answer(ids_of(*parts), **options)


async def ask(client, **options):
    options = {"model": "fake", "messages": HELLO} | options
    return await client.chat.completions.create(**options)


async def stream(client, **options):
    return [chunk async for chunk in await ask(client, stream=True, **options)]


async def test_chat_answers_with_text_reason_and_usage():
    gateway = FakeGateway(answer("Good day to you"))
    gateway.prepare = lambda run: setattr(run, "num_cached_tokens", 3)
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client)
    [choice] = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Good day to you"
    assert choice.finish_reason == "stop"
    usage = completion.usage
    assert usage.completion_tokens == len(ids_of("Good day to you")) + 1
    assert usage.prompt_tokens == len(gateway.runs[0].request.prompt_token_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 3
    assert completion.model == "fake"
    assert not gateway.runs[0].aborted.is_set()


async def test_chat_stream_begins_with_the_role_and_ends_with_reason_and_usage():
    gateway = FakeGateway(answer("Good day ", "to you"))
    async with openai_client(make_frontend(gateway)) as client:
        chunks = await stream(client, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(c.delta.content or "" for c in deltas) == "Good day to you"
    assert [c.finish_reason for c in deltas if c.finish_reason] == ["stop"]
    assert deltas[-1].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(ids_of("Good day ", "to you")) + 1
    assert len({chunk.id for chunk in chunks}) == 1


async def test_reasoning_comes_beside_the_content_and_is_counted():
    parts = (THINK, "Let me see.", END_THINK, "Yes.")
    gateway = FakeGateway(answer(*parts))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, reasoning_effort="high")
        chunks = await stream(client, reasoning_effort="high")
    message = completion.choices[0].message
    assert message.content == "Yes."
    assert message.reasoning_content == message.reasoning == "Let me see."
    details = completion.usage.completion_tokens_details
    assert details.reasoning_tokens == len(ids_of("Let me see."))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Let me see."
    assert "".join(d.content or "" for d in deltas) == "Yes."


async def test_tool_calls_have_ids_of_ours_and_come_in_openai_shape():
    parts = (CALLS, "get_weather", ARGS, '{"city": "Paris"}', CALLS, "get_weather", ARGS, "{}")
    gateway = FakeGateway(answer(*parts))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, tools=[TOOL])
        chunks = await stream(client, tools=[TOOL], tool_choice="auto")
        calls = completion.choices[0].message.tool_calls
        again = [
            *HELLO,
            completion.choices[0].message.model_dump(),
            *({"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls),
        ]
        await ask(client, tools=[TOOL], messages=again)  # what was answered can be sent back
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.content is None
    assert [call.function.name for call in calls] == ["get_weather"] * 2
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', "{}"]
    assert len({call.id for call in calls}) == 2
    deltas = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert [c.function.name for c in deltas if c.id] == ["get_weather"] * 2
    arguments = [
        "".join(c.function.arguments or "" for c in deltas if c.index == i) for i in (0, 1)
    ]
    assert arguments == ['{"city": "Paris"}', "{}"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_tool_choice_none_hides_the_tools():
    gateway = FakeGateway(answer("ok"))
    async with openai_client(make_frontend(gateway)) as client:
        await ask(client)
        await ask(client, tools=[TOOL], tool_choice="none")
        await ask(client, tools=[TOOL])
    plain, hidden, shown = (run.request.prompt_token_ids for run in gateway.runs)
    assert plain == hidden != shown


async def test_two_choices_are_kept_apart():
    gateway = FakeGateway(answer("one two three"), answer("four"))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, n=2)
        chunks = await stream(client, n=2)
    assert [c.message.content for c in completion.choices] == ["one two three", "four"]
    assert [c.index for c in completion.choices] == [0, 1]
    by_choice = {0: "", 1: ""}
    for chunk in chunks:
        [choice] = chunk.choices
        by_choice[choice.index] += choice.delta.content or ""
    assert by_choice == {0: "one two three", 1: "four"}
    assert len(ids_of("one two three", "four")) + 2 == completion.usage.completion_tokens


async def test_log_probabilities_come_with_their_tokens():
    ids = ids_of("Good day")
    logprobs = [
        TokenLogprobs(TokenLogprob(t, -0.5), (TokenLogprob(t, -0.5), TokenLogprob(7, -9.0)))
        for t in ids
    ]
    gateway = FakeGateway(Answer(ids, reason=FinishReason.LENGTH, logprobs=logprobs))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, logprobs=True, top_logprobs=2)
        chunks = await stream(client, logprobs=True, top_logprobs=2)
    content = completion.choices[0].logprobs.content
    assert gateway.runs[0].request.sampling.logprobs == 2
    assert "".join(entry.token for entry in content) == "Good day"
    assert [len(entry.top_logprobs) for entry in content] == [2] * len(ids)
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert streamed == content


async def test_sampling_fields_reach_the_gateway_and_defaults_are_filled():
    gateway = FakeGateway(answer("ok"))
    extra = {
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 2,
        "stop_token_ids": [11, 12],
        "ignore_eos": True,
        "speculative": False,
        "cache_salt": "tenant",
    }
    async with openai_client(make_frontend(gateway)) as client:
        await ask(
            client,
            temperature=0.5,
            max_completion_tokens=9,
            seed=3,
            stop="END",
            logit_bias={"5": 2},
            user="someone",
            extra_body=extra,
        )
        await ask(client)
        await ask(client)
    given, first, second = (run.request for run in gateway.runs)
    params = given.sampling
    assert (params.temperature, params.top_k, params.min_p, params.max_tokens) == (0.5, 0, 0.1, 9)
    assert (params.seed, params.stop, params.logit_bias) == (3, ("END",), {5: 2.0})
    assert (params.min_tokens, params.stop_token_ids, params.ignore_eos) == (2, (11, 12), True)
    assert not params.speculative
    assert given.cache_salt == "tenant"
    assert first.sampling.max_tokens == 4096 - len(first.prompt_token_ids)
    assert first.sampling.seed != second.sampling.seed
    assert 0 <= first.sampling.seed < 2**63


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"extra_body": {"top_k": "many"}}, "top_k"),
        ({"extra_body": {"stop": 5}}, "stop"),
        ({"extra_body": {"max_token": 5}}, "max_token"),
        ({"extra_body": {"prompt_logprobs": 1, "stream": True}}, "prompt_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "get_time"}},
            },
            "tool_choice",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
        ({"extra_body": {"thinking_token_budget": -1}}, "thinking_token_budget"),
        ({"extra_body": {"thinking_token_budget": 2**31}}, "thinking_token_budget"),
        ({"extra_body": {"top_k": 2**31}}, "top_k"),
        ({"extra_body": {"random_seed": 2**63}}, "random_seed"),
        ({"extra_body": {"seed": 2**63, "random_seed": 5}}, "seed"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 10**6, "max_tokens": 5}, "max_completion_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"extra_body": {"parallel_tool_calls": "no"}}, "parallel_tool_calls"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content[0].image_url",
        ),
    ],
)
async def test_bad_input_is_refused_by_field(options, field):
    gateway = FakeGateway(answer("ok"))
    async with openai_client(make_frontend(gateway)) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **options)
    assert caught.value.param == field
    assert caught.value.type == "invalid_request_error"
    assert not gateway.runs


async def test_unknown_model_is_not_found():
    async with openai_client(make_frontend(FakeGateway(answer("ok")))) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await ask(client, model="gpt")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_overload_is_429_with_retry_after(is_stream):
    gateway = FakeGateway()
    gateway.refusal = OverloadedError("queue", 8, 1.5)
    async with openai_client(make_frontend(gateway)) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, stream=is_stream)
    assert caught.value.response.headers["retry-after"] == "2"


async def test_error_after_the_first_token_is_an_event_or_a_status():
    gateway = FakeGateway()
    async with openai_client(make_frontend(gateway)) as client:
        asking = asyncio.create_task(stream(client))
        run = await gateway.next_run()
        run.emit(*ids_of("Good"))
        run.fail(ShardUnavailableError("shard-1", 2.0))
        with pytest.raises(openai.APIError, match="shard-1"):
            await asking
        asking = asyncio.create_task(ask(client))
        run = await gateway.next_run()
        run.emit(*ids_of("Good"))
        run.fail(ShardUnavailableError("shard-1", 2.0))
        with pytest.raises(openai.InternalServerError) as caught:
            await asking
    assert caught.value.status_code == 503


@pytest.mark.parametrize("num_tokens", [0, 3])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_leaving_client_aborts_its_request(num_tokens, is_stream):
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    body = {"messages": HELLO, "stream": is_stream}

    async def leave_when_told(url):
        async with httpx.AsyncClient(timeout=30) as client:
            await client.post(f"{url}/v1/chat/completions", json=body)

    async with http_served(frontend) as url:
        asking = asyncio.create_task(leave_when_told(url))
        run = await gateway.next_run()
        for token_id in ids_of("a b c d e f")[:num_tokens]:
            run.emit(token_id)
        await asyncio.sleep(0.05)
        assert not run.aborted.is_set()
        asking.cancel()
        await asyncio.wait_for(run.aborted.wait(), 60)
    await asyncio.wait_for(frontend.drain(), 60)
    outcome = {"api": "chat", "outcome": "disconnected"}
    assert frontend.metrics.set.registry.get_sample_value("galerne_requests_total", outcome) == 1


async def test_stream_is_server_sent_events_that_end_with_done():
    gateway = FakeGateway(answer("Bonjour, ça va ? 😀"))
    async with (
        http_served(make_frontend(gateway)) as url,
        httpx.AsyncClient() as client,
    ):
        body = {"messages": HELLO, "stream": True}
        response = await client.post(f"{url}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "Bonjour, ça va ? 😀"


async def test_stop_string_across_tokens_is_cut_from_the_content_and_aborts():
    assert len(ids_of("STOPPING")) > 1
    gateway = FakeGateway(answer("Say ", "STOPPING", " now and then"))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, stop=["STOPPING"])
        chunks = await stream(client, stop=["STOPPING"])
    assert completion.choices[0].message.content == "Say "
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].stop_reason == "STOPPING"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Say "
    assert all(run.aborted.is_set() for run in gateway.runs)


async def test_stop_reason_is_the_stop_token_that_was_asked_for_and_null_at_the_models_own_end():
    gateway = FakeGateway()
    async with openai_client(make_frontend(gateway)) as client:
        for stop_token_id, reason in ((5, 5), (0, 0), (EOS, None)):
            for api in (stream, ask):
                asking = asyncio.create_task(api(client, extra_body={"stop_token_ids": [0, 5]}))
                run = await gateway.next_run()
                end = {"reason": FinishReason.STOP, "stop_token_id": stop_token_id}
                run.emit(*ids_of("Hi"), stop_token_id, **end)
                told = await asking
                [choice] = told[-1].choices if api is stream else told.choices
                assert (choice.finish_reason, choice.stop_reason) == ("stop", reason)
        asking = asyncio.create_task(client.completions.create(model="fake", prompt="x"))
        (await gateway.next_run()).end()
        assert (await asking).choices[0].stop_reason is None


async def test_stop_string_in_reasoning_or_arguments_does_not_cut():
    parts = (THINK, "a;b", END_THINK, "c", CALLS, "f", ARGS, '{"x": ";"}')
    gateway = FakeGateway(answer(*parts))
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, tools=[TOOL], stop=[";"])
    message = completion.choices[0].message
    assert (message.reasoning_content, message.content) == ("a;b", "c")
    assert message.tool_calls[0].function.arguments == '{"x": ";"}'


async def test_abort_rpc_of_a_streamed_chat_ends_it_with_abort():
    gateway = FakeGateway()
    async with openai_client(make_frontend(gateway)) as client:
        asking = asyncio.create_task(ask(client))
        run = await gateway.next_run()
        run.emit(*ids_of("Good"))
        assert await gateway.abort(run.request.request_id)
        completion = await asking
    assert completion.choices[0].finish_reason == "abort"
    assert completion.choices[0].message.content == embedded().decode(ids_of("Good"))


async def test_prompt_log_probabilities_of_a_chat_leave_out_its_first_token():
    gateway = FakeGateway(answer("ok"))

    def judge_prompt(run):
        _, *rest = run.request.prompt_token_ids
        judged = [TokenLogprobs(TokenLogprob(t, float("-inf")), ()) for t in rest]
        run.prompt_logprobs = [None, *judged]

    gateway.prepare = judge_prompt
    async with openai_client(make_frontend(gateway)) as client:
        completion = await ask(client, extra_body={"prompt_logprobs": 0})
    first, *rest = completion.prompt_logprobs
    ids = gateway.runs[0].request.prompt_token_ids
    assert first is None
    assert [list(entry) for entry in rest] == [[str(t)] for t in ids[1:]]
    assert rest[0][str(ids[1])]["logprob"] == -9999.0  # JSON has no infinity
