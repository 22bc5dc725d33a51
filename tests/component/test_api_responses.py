"""/v1/responses through the real client: items, typed events, and what is refused."""

import base64
import io

import openai
import pytest
from PIL import Image

from galerne.errors import ShardUnavailableError
from helpers.api_servers import ids_of, make_frontend, openai_client
from helpers.fake_gateway import Answer, FakeGateway
from router.engine.request import FinishReason, TokenLogprob, TokenLogprobs

THINK, END_THINK, CALLS, ARGS = 34, 35, 9, 32
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
PARTS = (THINK, "Hm, 😀", END_THINK, "Ok", CALLS, "f", ARGS, '{"x": 1}', CALLS, "f", ARGS, "{}")


def answer(*parts, **options) -> Answer:
    return Answer(ids_of(*parts), **options)


def as_sent(item):
    """An item without what the client has parsed of it."""
    fields = item.to_dict()
    fields.pop("parsed_arguments", None)
    for part in fields.get("content") or ():
        part.pop("parsed", None)
    return fields


async def ask(client, **options):
    return await client.responses.create(**({"model": "fake", "input": "Hello"} | options))


async def test_an_answer_has_reasoning_message_and_calls_as_items_and_a_usage():
    gateway = FakeGateway(answer(*PARTS))
    gateway.prepare = lambda run: setattr(run, "num_cached_tokens", 3)
    async with openai_client(make_frontend(gateway)) as client:
        made = await ask(
            client,
            tools=[TOOL],
            reasoning={"effort": "high"},
            metadata={"order": "7"},
            user="someone",
            max_output_tokens=100,
            store=False,
        )
    assert [item.type for item in made.output] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    thought, said, *calls = made.output
    assert thought.content[0].text == "Hm, 😀"
    assert said.content[0].text == made.output_text == "Ok"
    assert [(c.name, c.arguments) for c in calls] == [("f", '{"x": 1}'), ("f", "{}")]
    assert len({item.id for item in made.output}) == 4
    assert {item.status for item in made.output} == {made.status} == {"completed"}
    usage = made.usage
    assert usage.input_tokens == len(gateway.runs[0].request.prompt_token_ids)
    assert usage.output_tokens == len(ids_of(*PARTS)) + 1
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens == 3
    assert usage.output_tokens_details.reasoning_tokens == len(ids_of("Hm, 😀"))
    assert (made.metadata, made.user, made.store) == ({"order": "7"}, "someone", False)
    assert (made.max_output_tokens, made.reasoning.effort) == (100, "high")
    assert gateway.runs[0].request.sampling.max_tokens == 100


async def test_the_typed_events_of_a_stream_build_the_answer_that_comes_at_once():
    gateway = FakeGateway(answer(*PARTS))
    async with openai_client(make_frontend(gateway)) as client:
        whole = await ask(client, tools=[TOOL])
        async with client.responses.stream(model="fake", input="Hello", tools=[TOOL]) as stream:
            events = [event async for event in stream]
            built = await stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))

    def text(kind):
        return "".join(event.delta for event in events if event.type == kind)

    assert text("response.reasoning_text.delta") == "Hm, 😀"
    assert text("response.output_text.delta") == "Ok"
    assert text("response.function_call_arguments.delta") == '{"x": 1}{}'
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert added == [item.id for item in done] == [item.id for item in built.output]
    last = events[-1].response
    assert list(map(as_sent, done)) == list(map(as_sent, last.output))

    def plain(response):
        items = map(as_sent, response.output)
        return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in items]

    assert plain(last) == plain(whole)


async def test_what_was_answered_can_be_sent_back_and_is_the_chat_that_it_was():
    gateway = FakeGateway(answer(*PARTS))
    async with openai_client(make_frontend(gateway)) as client:
        first = await ask(client, tools=[TOOL], instructions="Be brief.")
        calls = [item for item in first.output if item.type == "function_call"]
        outputs = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
            for call in calls
        ]
        await ask(
            client,
            tools=[TOOL],
            instructions="Be brief.",
            input=[{"role": "user", "content": "Hello"}, *first.output, *outputs],
        )
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        message = {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm, 😀"},
                {"type": "text", "text": "Ok"},
            ],
            "tool_calls": [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": "f", "arguments": call.arguments},
                }
                for call in calls
            ],
        }
        results = [
            {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"} for call in calls
        ]
        await client.chat.completions.create(
            model="fake",
            tools=[tool],
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                message,
                *results,
            ],
        )
    _, again, chat = (run.request.prompt_token_ids for run in gateway.runs)
    assert again == chat


async def test_images_reach_the_gateway_from_messages_and_from_results_of_tools():
    file = io.BytesIO()
    Image.new("RGB", (56, 28), "teal").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    image = {"type": "input_image", "image_url": url, "detail": "auto"}
    gateway = FakeGateway(answer("ok"), takes_images=True)
    async with openai_client(make_frontend(gateway)) as client:
        await ask(
            client,
            tools=[TOOL],
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": "See"}, image]},
                {"type": "function_call", "call_id": "abcdefghi", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "abcdefghi", "output": [image]},
            ],
        )
    assert len(gateway.runs[0].request.images) == 2


async def test_an_answer_that_is_cut_says_that_it_is_incomplete():
    gateway = FakeGateway(answer("one two", reason=FinishReason.LENGTH))
    async with openai_client(make_frontend(gateway)) as client:
        made = await ask(client)
        events = [event async for event in await ask(client, stream=True)]
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.output[0].status == "incomplete"
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "incomplete"


async def test_a_failure_after_the_first_token_is_an_event_or_a_status():
    gateway = FakeGateway()

    def fail(run):
        run.emit(*ids_of("Good"))
        run.fail(ShardUnavailableError("shard-1", 2.0))

    gateway.prepare = fail
    async with openai_client(make_frontend(gateway)) as client:
        events = [event async for event in await ask(client, stream=True)]
        with pytest.raises(openai.InternalServerError, match="shard-1"):
            await ask(client)
    assert events[-1].type == "response.failed"
    assert "shard-1" in events[-1].response.error.message


async def test_log_probabilities_come_with_the_text_if_they_are_included():
    ids = ids_of("Good day")
    logprobs = [TokenLogprobs(TokenLogprob(t, -0.5), (TokenLogprob(7, -9.0),)) for t in ids]
    gateway = FakeGateway(Answer(ids, logprobs=logprobs, reason=FinishReason.LENGTH))
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    async with openai_client(make_frontend(gateway)) as client:
        made = await ask(client, **asked)
        events = [event async for event in await ask(client, stream=True, **asked)]
    shown = made.output[0].content[0].logprobs
    assert [entry.logprob for entry in shown] == [-0.5] * len(ids)
    assert [len(entry.top_logprobs) for entry in shown] == [1] * len(ids)
    streamed = [p for e in events if e.type == "response.output_text.delta" for p in e.logprobs]
    assert len(streamed) == len(ids)
    assert gateway.runs[0].request.sampling.logprobs == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"extra_body": {"conversation": "c"}}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"extra_body": {"metadata": {"k": 5}}}, "metadata.k"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": ["x"]}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"type": "function_call_output", "output": "x"}]},
            "input[0].call_id",
        ),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"odd": 1}}, "odd"),
        ({"extra_headers": {"X-Galerne-Resumable": "true"}, "stream": True}, "X-Galerne-Resumable"),
    ],
)
async def test_what_is_not_served_is_refused_by_the_name_it_has_in_this_api(options, field):
    gateway = FakeGateway(answer("ok"))
    async with openai_client(make_frontend(gateway)) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, **options)
    assert caught.value.param == field
    assert not gateway.runs
