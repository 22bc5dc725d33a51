"""The openai client against the running demo model: one test for each feature."""

import json

import openai
import pytest

from helpers.sure_questions import CALL, LOOK, SEEN, SUM, TOLD, TOOL, URL, WEATHER, WEATHER_NOW


def test_chat_thinks_and_answers(client, options):
    done = client.chat.completions.create(
        messages=SUM, reasoning_effort="high", max_tokens=120, **options
    )
    [choice] = done.choices
    assert (choice.message.content, choice.finish_reason) == ("1682", "stop")
    assert "1682" in choice.message.reasoning_content
    assert 0 < done.usage.completion_tokens_details.reasoning_tokens < done.usage.completion_tokens


def test_stream_says_what_the_chat_says_and_ends_with_its_usage(client, options):
    asked = {"messages": SUM, "reasoning_effort": "high", "max_tokens": 120, **options}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content == "1682"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_prompt_that_was_seen_before_is_counted_as_cached(client, options):
    asked = {"messages": [{"role": "user", "content": "Count. " * 30}], "max_tokens": 2}
    first, second = (client.chat.completions.create(**asked, **options) for _ in range(2))
    assert second.usage.prompt_tokens_details.cached_tokens > 16
    assert second.choices[0].message.content == first.choices[0].message.content


def test_tools_are_called_and_their_result_is_told(client, options):
    tools = [TOOL]
    messages = [{"role": "user", "content": CALL}]
    done = client.chat.completions.create(messages=messages, tools=tools, max_tokens=60, **options)
    assert done.choices[0].finish_reason == "tool_calls"
    [call] = done.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Lyon"}
    result = {"role": "tool", "tool_call_id": call.id, "content": WEATHER_NOW}
    told = client.chat.completions.create(
        messages=[*messages, done.choices[0].message, result],
        tools=tools,
        max_tokens=60,
        **options,
    )
    assert told.choices[0].message.content == TOLD


def test_the_streaming_helper_gathers_the_arguments_of_a_tool_call(client, options):
    tools = [TOOL]
    with client.chat.completions.stream(
        messages=[{"role": "user", "content": CALL}], tools=tools, max_tokens=60, **options
    ) as stream:
        for _ in stream:
            pass
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Lyon"},
    )


def test_a_picture_is_seen(client, options):
    parts = [
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "text", "text": LOOK},
    ]
    done = client.chat.completions.create(
        messages=[{"role": "user", "content": parts}], max_tokens=60, **options
    )
    assert done.choices[0].message.content == SEEN


def test_responses_think_and_answer(client, options):
    made = client.responses.create(
        input="How much is 787 plus 895?",
        reasoning={"effort": "high"},
        max_output_tokens=120,
        store=False,
        **options,
    )
    assert (made.output_text, made.status) == ("1682", "completed")
    assert [item.type for item in made.output] == ["reasoning", "message"]


def test_responses_stream_typed_events(client, options):
    with client.responses.stream(
        input=[{"role": "user", "content": "How much is 787 plus 895?"}],
        reasoning={"effort": "high"},
        max_output_tokens=120,
        **options,
    ) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "1682"
    assert final.usage.output_tokens_details.reasoning_tokens > 0


def test_responses_call_tools_and_tell_their_result(client, options):
    tools = [{"type": "function", **WEATHER}]
    asked = [{"role": "user", "content": CALL}]
    called = client.responses.create(input=asked, tools=tools, max_output_tokens=60, **options)
    [call] = called.output
    assert (call.type, json.loads(call.arguments)) == ("function_call", {"city": "Lyon"})
    output = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": WEATHER_NOW,
    }
    told = client.responses.create(
        input=[*asked, *called.output, output], tools=tools, max_output_tokens=60, **options
    )
    assert told.output_text == TOLD


def test_responses_see_a_picture(client, options):
    parts = [
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "input_text", "text": LOOK},
    ]
    made = client.responses.create(
        input=[{"role": "user", "content": parts}], max_output_tokens=60, **options
    )
    assert made.output_text == SEEN


def test_completions_score_a_prompt(client, options):
    done = client.completions.create(
        prompt="The Loire ends", max_tokens=3, logprobs=2, echo=True, **options
    )
    logprobs = done.choices[0].logprobs
    assert done.choices[0].text.startswith("The Loire ends")
    assert logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in logprobs.token_logprobs[1:])


def test_the_model_is_listed_and_another_is_not_found(client, speaking):
    assert [model.id for model in client.models.list()] == [speaking.model]
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=SUM)
    assert caught.value.code == "model_not_found"


def test_a_request_id_comes_back(client, options):
    asked = {"messages": SUM, "max_tokens": 1, **options}
    headers = {"X-Request-Id": "trace-7"}
    assert client.chat.completions.create(extra_headers=headers, **asked)._request_id == "trace-7"


def test_a_timeout_is_an_error_of_the_client(client, options):
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            messages=SUM, extra_body={"timeout": 0.001}, max_tokens=900, **options
        )
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
