"""Structured output and forced tool calls with real clients, against the running demo model."""

import json
import warnings
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from helpers.sure_questions import CALL, SUM, SUM_TEXT, TOOL, WEATHER

TOOLS = [TOOL]
WIND = {"name": "get_wind", "description": "get wind", "parameters": WEATHER["parameters"]}


class Answer(BaseModel):
    """Small enough for a model that has never seen JSON schemas."""

    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "blue"]
    number: Literal[1, 2, 3]


SCHEMA = Answer.model_json_schema()


@pytest.mark.parametrize("effort", ["none", "high"])
def test_openai_gets_an_answer_of_its_schema_after_the_reasoning(client, options, effort):
    done = client.chat.completions.parse(
        messages=SUM,
        response_format=Answer,
        reasoning_effort=effort,
        max_completion_tokens=200,
        **options,
    )
    assert isinstance(done.choices[0].message.parsed, Answer)
    assert done.choices[0].finish_reason == "stop"


def test_openai_streams_json_of_its_schema(client, options):
    schema = {"name": "answer", "schema": SCHEMA, "strict": True}
    chunks = client.chat.completions.create(
        messages=SUM,
        response_format={"type": "json_schema", "json_schema": schema},
        max_completion_tokens=200,
        stream=True,
        **options,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    Answer.model_validate_json(text)


def test_openai_responses_parse_an_answer_of_their_schema(client, options):
    made = client.responses.parse(
        input=SUM_TEXT, text_format=Answer, max_output_tokens=200, **options
    )
    assert isinstance(made.output_parsed, Answer)
    assert made.text.format.type == "json_schema"


def test_openai_responses_force_a_call(client, options):
    tools = [{"type": "function", **WEATHER}]
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        made = client.responses.create(
            input=SUM_TEXT, tools=tools, tool_choice=choice, max_output_tokens=200, **options
        )
        calls = [item for item in made.output if item.type == "function_call"]
        assert calls
        assert all(set(json.loads(call.arguments)) == {"city"} for call in calls)


@pytest.mark.parametrize("is_stream", [False, True])
def test_openai_forces_a_call_of_any_tool_or_of_one(client, options, is_stream):
    named = {"type": "function", "function": {"name": "get_wind"}}
    tools = [*TOOLS, {"type": "function", "function": WIND}]
    for choice, names in (("required", {"get_weather", "get_wind"}), (named, {"get_wind"})):
        asked = {"messages": SUM, "tools": tools, "tool_choice": choice, "max_tokens": 200}
        if is_stream:
            with client.chat.completions.stream(**asked, **options) as stream:
                for _ in stream:
                    pass
                done = stream.get_final_completion()
        else:
            done = client.chat.completions.create(**asked, **options)
        calls = done.choices[0].message.tool_calls
        assert {call.function.name for call in calls} <= names
        assert all(set(json.loads(call.function.arguments)) == {"city"} for call in calls)


def test_openai_gets_any_json_object(client, options):
    done = client.chat.completions.create(
        messages=SUM, response_format={"type": "json_object"}, max_tokens=300, **options
    )
    if done.choices[0].finish_reason == "stop":  # a small model may never close the object
        assert isinstance(json.loads(done.choices[0].message.content), dict)


def test_a_schema_that_is_none_is_refused_by_field(client, options):
    schema = {"name": "answer", "schema": {"type": "nothing"}, "strict": True}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            messages=SUM,
            response_format={"type": "json_schema", "json_schema": schema},
            **options,
        )
    assert caught.value.param.startswith("response_format")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            input=SUM_TEXT, text={"format": {"type": "json_schema", **schema}}, **options
        )
    assert caught.value.param.startswith("text.format")


def test_mistralai_gets_an_answer_of_its_schema_and_forces_a_call(speaking, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mistralai.client import Mistral
    with Mistral(api_key="none", server_url=speaking.http) as mistral:
        schema = {"name": "answer", "schema": SCHEMA, "strict": True}
        done = mistral.chat.complete(
            messages=SUM,
            response_format={"type": "json_schema", "json_schema": schema},
            max_tokens=200,
            **options,
        )
        Answer.model_validate_json(done.choices[0].message.content)
        called = mistral.chat.complete(
            messages=SUM, tools=TOOLS, tool_choice="any", max_tokens=200, **options
        )
    assert called.choices[0].message.tool_calls


async def test_pydantic_ai_agent_returns_an_object(speaking):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pydantic_ai import Agent, NativeOutput
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
    async with openai.AsyncOpenAI(base_url=f"{speaking.http}/v1", api_key="none") as client:
        model = OpenAIChatModel(speaking.model, provider=OpenAIProvider(openai_client=client))
        for wanted in (Answer, NativeOutput(Answer)):  # by a forced call, and by a schema
            agent = Agent(
                model,
                output_type=wanted,
                model_settings={"temperature": 0, "max_tokens": 200},
            )
            assert isinstance((await agent.run(CALL)).output, Answer)
