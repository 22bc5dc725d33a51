"""mistralai, pydantic-ai and grpcio against the running demo model: one test for each feature."""

import json
import warnings

import grpc
import pytest
from openai import AsyncOpenAI

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.sure_questions import (
    CALL,
    LOOK,
    PICTURE,
    SEEN,
    SUM,
    SUM_ANSWER,
    SUM_TEXT,
    TOLD,
    TOOL,
    URL,
    WEATHER,
    WEATHER_NOW,
)


@pytest.fixture(scope="module")
def mistral(speaking):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        from mistralai.client import Mistral
    with Mistral(api_key="none", server_url=speaking.http) as made:
        yield made


@pytest.fixture(scope="module")
def options(speaking):
    return {"model": speaking.model, "temperature": 0}


def test_mistralai_chats(mistral, options):
    done = mistral.chat.complete(
        messages=SUM, reasoning_effort="high", max_tokens=120, random_seed=3, **options
    )
    assert done.choices[0].message.content == SUM_ANSWER
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_mistralai_streams(mistral, options):
    events = mistral.chat.stream(messages=SUM, reasoning_effort="high", max_tokens=120, **options)
    deltas = [event.data.choices[0].delta.content or "" for event in events]
    assert "".join(deltas) == SUM_ANSWER


def test_mistralai_calls_a_tool_and_tells_its_result(mistral, options):
    tools = [TOOL]
    messages = [{"role": "user", "content": CALL}]
    done = mistral.chat.complete(messages=messages, tools=tools, max_tokens=60, **options)
    [call] = done.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Lyon"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather"}
    told = mistral.chat.complete(
        messages=[*messages, done.choices[0].message, result | {"content": WEATHER_NOW}],
        tools=tools,
        max_tokens=60,
        **options,
    )
    assert told.choices[0].message.content == TOLD


def test_mistralai_streams_a_tool_call(mistral, options):
    tools = [TOOL]
    events = mistral.chat.stream(
        messages=[{"role": "user", "content": CALL}], tools=tools, max_tokens=60, **options
    )
    calls = [c for event in events for c in event.data.choices[0].delta.tool_calls or ()]
    assert calls[0].function.name == "get_weather"
    assert json.loads("".join(c.function.arguments for c in calls)) == {"city": "Lyon"}


def test_mistralai_sends_a_picture(mistral, options):
    parts = [{"type": "image_url", "image_url": URL}, {"type": "text", "text": LOOK}]
    done = mistral.chat.complete(
        messages=[{"role": "user", "content": parts}], max_tokens=60, **options
    )
    assert done.choices[0].message.content == SEEN


@pytest.fixture(params=["chat", "responses"])
async def agent(request, speaking):
    """An agent with a tool, over either API; ``asked`` are the tool's arguments so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider
    kind = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
    async with AsyncOpenAI(base_url=f"{speaking.http}/v1", api_key="none") as client:
        made = Agent(
            kind(speaking.model, provider=OpenAIProvider(openai_client=client)),
            model_settings={"temperature": 0, "max_tokens": 60},
        )
        made.asked = []

        @made.tool_plain
        def get_weather(city: str) -> str:
            """get weather"""
            made.asked.append(city)
            return WEATHER_NOW

        yield made


async def test_pydantic_ai_agent_calls_its_tool_and_tells_the_result(agent):
    result = await agent.run(CALL)
    assert agent.asked == ["Lyon"]
    assert result.output == TOLD
    assert result.usage.requests == 2


async def test_pydantic_ai_agent_streams_its_answer(agent):
    async with agent.run_stream(CALL) as result:
        texts = [text async for text in result.stream_text(delta=True)]
    assert agent.asked == ["Lyon"]
    assert "".join(texts) == TOLD


@pytest.fixture(scope="module")
def stub(speaking):
    with grpc.insecure_channel(speaking.grpc) as channel:
        yield pb_grpc.InferenceServiceStub(channel)


def chat_request(*parts, **fields):
    sampling = pb.SamplingParams(temperature=0, max_tokens=120)
    message = pb.ChatMessage(role="user", content=parts)
    return pb.ChatRequest(**({"messages": [message], "sampling": sampling} | fields))


def weather_tool():
    schema = json.dumps(WEATHER["parameters"])
    return pb.Tool(name="get_weather", description="get weather", parameters_json_schema=schema)


def test_grpcio_streams_reasoning_and_content_apart(stub):
    request = chat_request(pb.ContentPart(text=SUM_TEXT), reasoning_effort="high")
    events = list(stub.Chat(request, timeout=60))
    assert "".join(e.delta.content for e in events) == SUM_ANSWER
    assert SUM_ANSWER in "".join(e.delta.reasoning for e in events)
    assert events[-1].usage.reasoning_tokens > 0


def test_grpcio_calls_a_tool_and_tells_its_result(stub):
    question = pb.ChatMessage(role="user", content=[pb.ContentPart(text=CALL)])
    events = list(stub.Chat(chat_request(messages=[question], tools=[weather_tool()]), timeout=60))
    [started] = [e.delta.tool_call for e in events if e.delta.HasField("tool_call")]
    arguments = "".join(e.delta.tool_arguments.json_delta for e in events)
    assert json.loads(arguments) == {"city": "Lyon"}
    call = pb.ToolCall(id=started.id, name=started.name, arguments_json=arguments)
    messages = [
        question,
        pb.ChatMessage(role="assistant", tool_calls=[call]),
        pb.ChatMessage(
            role="tool", tool_call_id=call.id, content=[pb.ContentPart(text=WEATHER_NOW)]
        ),
    ]
    told = stub.Chat(chat_request(messages=messages, tools=[weather_tool()]), timeout=60)
    assert "".join(e.delta.content for e in told) == TOLD


def test_grpcio_sends_a_picture(stub):
    request = chat_request(pb.ContentPart(image=PICTURE), pb.ContentPart(text=LOOK))
    events = list(stub.Chat(request, timeout=60))
    assert "".join(e.delta.content for e in events) == SEEN


def test_grpcio_continues_a_prompt_and_gets_it_back_from_its_ids(stub):
    sampling = pb.SamplingParams(temperature=0, max_tokens=8)
    result = stub.GenerateOnce(pb.GenerateRequest(text="The Loire", sampling=sampling), timeout=60)
    choice = result.choices[0]
    text = stub.Detokenize(pb.DetokenizeRequest(token_ids=choice.token_ids)).text
    assert text == choice.text


def test_grpcio_tokenizes_a_conversation_as_it_is_run(stub):
    request = chat_request(pb.ContentPart(text=SUM_TEXT))
    ids = stub.Tokenize(pb.TokenizeRequest(chat=request)).token_ids
    accepted = next(iter(stub.Chat(request, timeout=60))).accepted
    assert accepted.prompt_tokens == len(ids)
