"""Formats, tool choices and thinking budgets on the demo's model: from the client to the token."""

import asyncio
import json
from contextlib import asynccontextmanager

import openai
import pytest
from jsonschema import Draft202012Validator

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import embedded, grpc_channel, openai_client
from helpers.gateway_process import TOKEN, Directory, GatewayProcess
from helpers.guided import CALLS, SCHEMA
from router.api.frontend import Frontend
from router.gateway.pool import GatewayPool

HELLO = [{"role": "user", "content": "Hello"}]
HOT = {"temperature": 2.0, "max_tokens": 400}
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True},
}
NO_SCHEMA = json.dumps({"type": "object", "not": {"required": ["a"]}})  # cannot be enforced
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": SCHEMA, "strict": name == "store"},
    }
    for name in ("store", "fetch")
]


@asynccontextmanager
async def frontend_over(host, **options):
    pool = GatewayPool(Directory(gateway=host.address), TOKEN)
    await pool.start(60.0)
    frontend = Frontend(pool, embedded(), **options)
    try:
        yield frontend
    finally:
        await frontend.close()
        await pool.close()


@asynccontextmanager
async def client_of(host, **options):
    async with frontend_over(host, **options) as frontend, openai_client(frontend) as client:
        yield client


async def ask(client, **options):
    options = {"model": "tiny", "messages": HELLO} | HOT | options
    return await client.chat.completions.create(**options)


def check(text):
    Draft202012Validator(SCHEMA).validate(json.loads(text))


async def test_every_choice_fits_the_schema_streamed_or_not_with_logprobs_and_seed(standing):
    options = {"response_format": RESPONSE_FORMAT, "n": 3, "seed": 5}
    async with client_of(standing) as client:
        whole = await ask(client, logprobs=True, top_logprobs=2, **options)
        texts = ["", "", ""]
        async for chunk in await ask(client, stream=True, **options):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        check(choice.message.content)
        said = b"".join(bytes(position.bytes or ()) for position in choice.logprobs.content)
        assert said.decode().removesuffix("</s>") == choice.message.content


@pytest.mark.parametrize("effort", ["none", "high"])
async def test_answer_whose_gateway_is_killed_fits_the_schema_and_is_the_same(standing, effort):
    options = {"response_format": RESPONSE_FORMAT, "n": 2, "seed": 5, "logprobs": True}
    options |= {"reasoning_effort": effort, "extra_body": {"thinking_token_budget": 8}}
    async with client_of(standing) as client:
        want = said_by([chunk async for chunk in await ask(client, stream=True, **options)])
    victim = await asyncio.to_thread(GatewayProcess, 1, speaks=True, hold_at=14)
    try:
        async with frontend_over(victim) as frontend, openai_client(frontend) as client:
            stream = aiter(await ask(client, stream=True, **options))
            chunks = [await anext(stream) for _ in range(16)]
            frontend.gateway._directory.gateways["standing"] = standing.address
            await frontend.gateway.refresh()
            assert all(said["reason"] is None for said in said_by(chunks))
            victim.kill()
            chunks += [chunk async for chunk in stream]
    finally:
        victim.close()
    assert said_by(chunks) == want
    assert any(said["reasoning"] for said in want) == (effort == "high")
    for said in want:
        check(said["content"])


def said_by(chunks):
    """All that a streamed answer says, by choice."""
    found = [{"reasoning": "", "content": "", "tokens": [], "reason": None} for _ in range(2)]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        said = found[choice.index]
        said["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
        said["content"] += choice.delta.content or ""
        said["tokens"] += [
            p.model_dump() for p in (choice.logprobs and choice.logprobs.content) or ()
        ]
        said["reason"] = choice.finish_reason or said["reason"]
    return found


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ({"guided_choice": ["red", "green"]}, lambda text: text in ("red", "green")),
        ({"guided_regex": r"[a-f]{3,6}\d"}, lambda text: text[-1].isdigit() and text[:3].islower()),
        ({"structured_outputs": {"json": SCHEMA}}, lambda text: check(text) is None),
        ({"guided_grammar": 'start: ab{1,3}\nab: "ab"'}, lambda text: set(text[::2]) == {"a"}),
    ],
)
async def test_vllm_fields_work_in_both_endpoints(standing, fields, is_right):
    async with client_of(standing) as client:
        chat = await ask(client, extra_body=fields, seed=1)
        completion = await client.completions.create(
            model="tiny", prompt="Once", extra_body=fields, seed=1, **HOT
        )
    assert is_right(chat.choices[0].message.content)
    assert is_right(completion.choices[0].text)
    assert chat.choices[0].finish_reason == completion.choices[0].finish_reason == "stop"


async def test_length_parameters_give_way_to_the_end_of_the_format(standing):
    fields = {"guided_choice": ["red"], "min_tokens": 50, "ignore_eos": True}
    async with client_of(standing) as client:
        short = await ask(client, extra_body=fields)
        long = await ask(client, extra_body=fields | {"guided_regex": "a*", "guided_choice": None})
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("red", "stop")
    assert long.choices[0].finish_reason == "length"
    assert set(long.choices[0].message.content) == {"a"}


async def test_answer_after_reasoning_fits_the_schema(standing):
    async with client_of(standing) as client:
        answers = [
            await ask(
                client, reasoning_effort="high", response_format=RESPONSE_FORMAT, seed=seed,
                temperature=1.0, extra_body={"thinking_token_budget": 12},
            )
            for seed in range(4)
        ]  # fmt: skip
    for answer in answers:
        check(answer.choices[0].message.content)
    thoughts = [a.usage.completion_tokens_details.reasoning_tokens for a in answers]
    assert max(thoughts) > 0, "the model reasons"
    assert max(thoughts) <= 12
    assert [bool(a.choices[0].message.reasoning_content) for a in answers] == [
        t > 0 for t in thoughts
    ]


async def test_budget_ends_the_reasoning_and_the_answer_follows(standing):
    question = [{"role": "user", "content": "How much is 787 plus 895?"}]
    options = {"messages": question, "reasoning_effort": "high", "temperature": 0}
    async with client_of(standing) as client:
        free = await ask(client, **options)
        budgets = {
            budget: await ask(client, extra_body={"thinking_token_budget": budget}, **options)
            for budget in (0, 3, 10_000)
        }
    num_free = free.usage.completion_tokens_details.reasoning_tokens
    assert num_free > 3
    for budget, answer in budgets.items():
        num_thoughts = answer.usage.completion_tokens_details.reasoning_tokens
        assert num_thoughts == min(budget, num_free)
        assert answer.choices[0].message.content
    assert budgets[10_000].choices[0].message == free.choices[0].message


async def test_deployment_decides_the_effort_of_chats_that_name_none(standing):
    question = [{"role": "user", "content": "How much is 787 plus 895?"}]
    async with client_of(standing, reasoning_effort="high") as client:
        silent = await ask(client, messages=question, temperature=0)
        none = await ask(client, messages=question, temperature=0, reasoning_effort="none")
    assert silent.usage.completion_tokens_details.reasoning_tokens > 0
    assert none.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"store", "fetch"}),
        ({"type": "function", "function": {"name": "store"}}, {"store"}),
    ],
)
@pytest.mark.parametrize("effort", ["none", "high"])
async def test_wanted_call_is_made_with_arguments_of_its_schema(standing, choice, names, effort):
    options = {"tools": TOOLS, "tool_choice": choice, "reasoning_effort": effort}
    async with client_of(standing) as client:
        for seed in range(3):
            answer = await ask(
                client,
                seed=seed,
                parallel_tool_calls=False,
                extra_body={"thinking_token_budget": 10},
                **options,
            )
            [made] = answer.choices[0].message.tool_calls
            assert answer.choices[0].finish_reason == "tool_calls"
            assert not answer.choices[0].message.content
            assert made.function.name in names
            check(made.function.arguments)


async def test_several_calls_in_one_answer_all_fit(standing):
    async with client_of(standing) as client:
        answers = [
            await ask(
                client,
                tools=TOOLS,
                tool_choice="required",
                seed=seed,
                extra_body={"min_tokens": 80},
            )
            for seed in range(3)
        ]
    calls = [a.choices[0].message.tool_calls for a in answers]
    assert max(map(len, calls)) > 1
    for call in (call for made in calls for call in made):
        check(call.function.arguments)


async def test_model_that_decides_itself_to_call_fits_the_strict_schema(standing):
    """The model is made to begin a call; from there on it babbles at high temperature."""
    bias = {str(CALLS): 100}
    async with client_of(standing) as client:
        for seed in range(3):
            answer = await ask(
                client, tools=TOOLS, seed=seed, parallel_tool_calls=False, logit_bias=bias
            )
            [made] = answer.choices[0].message.tool_calls
            check(made.function.arguments)


async def test_bad_tool_schema_is_refused_by_field_before_anything_runs(standing):
    bad = {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}
    function = {"name": "bad", "parameters": bad, "strict": True}
    before = standing.engine.load_totals().admitted
    async with client_of(standing) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, tools=[*TOOLS, {"type": "function", "function": function}])
        assert caught.value.param == "tools[2].function.parameters"
        schema = {"name": "x", "schema": bad}
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, response_format={"type": "json_schema", "json_schema": schema})
        assert caught.value.param == "response_format.json_schema.schema"
    assert standing.engine.load_totals().admitted == before


async def test_grpc_has_the_same_formats_and_choices(standing):
    hello = pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hello")])
    tool = pb.Tool(name="store", parameters_json_schema=json.dumps(SCHEMA), strict=True)
    sampling = {"temperature": 2.0, "max_tokens": 400, "seed": 3}
    format_ = pb.StructuredOutput(json_schema=json.dumps(SCHEMA))
    async with frontend_over(standing) as frontend, grpc_channel(frontend) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        once = await stub.GenerateOnce(
            pb.GenerateRequest(
                text="Once", sampling=pb.SamplingParams(structured_output=format_, **sampling)
            )
        )
        asked = pb.ChatRequest(
            messages=[hello],
            tools=[tool],
            tool_choice=pb.ToolChoice(function="store"),
            sampling=pb.SamplingParams(**sampling),
        )
        events = [event async for event in stub.Chat(asked)]
        refusals = []
        for wrong in (
            pb.ChatRequest(messages=[hello], tool_choice=pb.ToolChoice(mode="maybe")),
            pb.ChatRequest(
                messages=[hello],
                tools=[pb.Tool(name="f", parameters_json_schema=NO_SCHEMA, strict=True)],
            ),
            pb.ChatRequest(
                messages=[hello],
                sampling=pb.SamplingParams(structured_output=pb.StructuredOutput(regex="(")),
            ),
        ):
            call = stub.Chat(wrong)
            await call.initial_metadata()
            refusals.append((await call.code(), await call.details()))
    check(once.choices[0].text)
    check("".join(e.delta.tool_arguments.json_delta for e in events))
    assert [code.name for code, _ in refusals] == ["INVALID_ARGUMENT"] * 3
    fields = [details.split(":")[0] for _, details in refusals]
    assert fields == [
        "tool_choice.mode",
        "tools[0].parameters_json_schema",
        "sampling.structured_output.regex",
    ]
