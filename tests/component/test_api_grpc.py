import asyncio
import io

import grpc
import pytest
from PIL import Image

from galerne.errors import OverloadedError, ShardUnavailableError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import embedded, grpc_channel, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.engine.request import FinishReason, TokenLogprob, TokenLogprobs

CALLS, ARGS, THINK, END_THINK = 9, 32, 34, 35


def answer(*parts, **options) -> Answer:
    return Answer(ids_of(*parts), **options)


def kinds(events) -> list[str]:
    """Names of the events, neighbours of one kind joined."""
    names = [event.WhichOneof("event") for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def text_of(events, choice=0) -> str:
    return "".join(e.tokens.text for e in events if e.tokens.choice == choice)


async def generate(channel, **options):
    stub = pb_grpc.InferenceServiceStub(channel)
    options = {"text": "Once"} | options
    return [event async for event in stub.Generate(pb.GenerateRequest(**options))]


async def test_generate_streams_accepted_tokens_end_and_usage():
    gateway = FakeGateway(answer(" upon a time"))
    async with grpc_channel(make_frontend(gateway)) as channel:
        events = await generate(channel, request_id="mine")
    assert kinds(events) == ["accepted", "tokens", "finished", "usage"]
    prompt = (embedded().bos_id, *ids_of("Once"))
    assert events[0].accepted.request_id == "mine"
    assert events[0].accepted.prompt_tokens == len(prompt)
    assert events[0].accepted.seed == gateway.runs[0].request.sampling.seed
    assert gateway.runs[0].request.prompt_token_ids == prompt
    assert text_of(events) == " upon a time"
    tokens = [t for e in events for t in e.tokens.token_ids]
    assert tokens == [*ids_of(" upon a time"), 2]
    offsets = [e.tokens.offset for e in events if e.HasField("tokens")]
    assert offsets == list(range(len(tokens)))
    [finished] = [e.finished for e in events if e.HasField("finished")]
    assert (finished.reason, finished.stop_token_id) == (pb.FINISH_REASON_STOP, 2)
    assert events[-1].usage.completion_tokens == len(tokens)


async def test_generate_once_says_what_generate_streams():
    ids = ids_of("Grüße STOP it")
    logprobs = [TokenLogprobs(TokenLogprob(t, -0.25), (TokenLogprob(5, -0.5),)) for t in ids]
    gateway = FakeGateway(
        Answer(ids, logprobs=logprobs, per_delta=2, reason=FinishReason.LENGTH),
        Answer(ids_of("short"), reason=FinishReason.LENGTH, logprobs=logprobs[:1]),
    )
    gateway.prepare = lambda run: setattr(
        run, "prompt_logprobs", [None, *logprobs[: len(run.request.prompt_token_ids) - 1]]
    )
    sampling = pb.SamplingParams(n=2, seed=5, logprobs=1, prompt_logprobs=1, stop=["STOP"])
    async with grpc_channel(make_frontend(gateway)) as channel:
        events = await generate(channel, sampling=sampling, request_id="same")
        request = pb.GenerateRequest(text="Once", sampling=sampling, request_id="same")
        result = await pb_grpc.InferenceServiceStub(channel).GenerateOnce(request)
    for index, choice in enumerate(result.choices):
        mine = [e.tokens for e in events if e.HasField("tokens") and e.tokens.choice == index]
        [end] = [
            e.finished for e in events if e.HasField("finished") and e.finished.choice == index
        ]
        assert choice.text == "".join(t.text for t in mine)
        assert list(choice.token_ids) == [i for t in mine for i in t.token_ids]
        assert list(choice.logprobs) == [p for t in mine for p in t.logprobs]
        assert (choice.finish_reason, choice.stop) == (end.reason, end.stop)
    assert (result.choices[0].text, result.choices[0].stop) == ("Grüße ", "STOP")
    assert list(result.prompt_logprobs) == list(events[1].prompt_logprobs.positions)
    assert len(result.prompt_logprobs) == events[0].accepted.prompt_tokens - 1
    assert result.usage == events[-1].usage
    assert result.choices[0].logprobs[0].chosen.token == embedded().token_bytes(ids[0])


async def test_stop_string_of_one_choice_lets_the_others_run_and_the_last_one_aborts():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        sampling = pb.SamplingParams(n=2, stop=["STOPPING"])
        asking = asyncio.create_task(generate(channel, sampling=sampling))
        run = await gateway.next_run()
        for token_id in ids_of("go STOPPING"):
            run.emit(token_id, choice=0)
        run.emit(*ids_of(" more"), choice=0)
        run.emit(*ids_of("on and"), choice=1)
        await asyncio.sleep(0.05)
        assert not run.aborted.is_set()
        run.emit(*ids_of(" on STOPPING and on"), choice=1)
        events = await asyncio.wait_for(asking, 60)
    assert run.aborted.is_set()
    assert [text_of(events, choice) for choice in (0, 1)] == ["go ", "on and on "]
    ends = [e.finished for e in events if e.HasField("finished")]
    assert [(end.choice, end.stop) for end in ends] == [(0, "STOPPING"), (1, "STOPPING")]
    assert events[-1].HasField("usage")
    num_kept = len(ids_of("go STOPPING")) + len(ids_of("on and", " on STOPPING"))
    assert events[-1].usage.completion_tokens == num_kept


async def test_character_over_several_tokens_comes_once_it_is_whole():
    ids = ids_of("a😀b")
    assert len(ids) > 3
    gateway = FakeGateway(Answer(ids))
    async with grpc_channel(make_frontend(gateway)) as channel:
        events = await generate(channel)
    texts = [e.tokens.text for e in events if e.HasField("tokens")]
    assert "".join(texts) == "a😀b"
    assert "" in texts
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


async def test_sampling_means_the_same_as_over_http():
    gateway = FakeGateway(answer("ok"))
    sampling = pb.SamplingParams(
        temperature=0.7,
        top_p=0.9,
        top_k=-1,
        logit_bias={5: 0.1},
        max_tokens=5,
        ignore_eos=True,
        speculative=False,
    )
    async with grpc_channel(make_frontend(gateway)) as channel:
        await generate(channel, sampling=sampling, cache_salt="x")
    params = gateway.runs[0].request.sampling
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.9, 0)
    assert (params.logit_bias, params.max_tokens, params.ignore_eos) == ({5: 0.1}, 5, True)
    assert not params.speculative
    assert gateway.runs[0].request.cache_salt == "x"


@pytest.mark.parametrize(
    ("options", "status", "field"),
    [
        ({"sampling": pb.SamplingParams(temperature=-1)}, "INVALID_ARGUMENT", "temperature"),
        ({"model": "other"}, "NOT_FOUND", "model"),
        ({"token_ids": pb.TokenIds(ids=[5, 9000])}, "INVALID_ARGUMENT", "prompt[1]"),
        ({"token_ids": pb.TokenIds()}, "INVALID_ARGUMENT", "prompt"),
        ({"images": [b"x"]}, "INVALID_ARGUMENT", "images"),
        ({"request_id": ""}, "INVALID_ARGUMENT", "request_id"),
        ({"cache_salt": "a\nb"}, "INVALID_ARGUMENT", "cache_salt"),
    ],
)
async def test_bad_input_is_refused_by_field(options, status, field):
    gateway = FakeGateway(answer("ok"))
    async with grpc_channel(make_frontend(gateway)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(channel, **options)
    assert caught.value.code().name == status
    assert caught.value.details().startswith(f"{field}: ")
    assert not gateway.runs


async def test_request_id_can_be_used_again_only_after_its_end():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        first = asyncio.create_task(generate(channel, request_id="same"))
        run = await gateway.next_run()
        with pytest.raises(grpc.aio.AioRpcError, match="request_id: same is running already"):
            await generate(channel, request_id="same")
        run.end()
        await first
        again = asyncio.create_task(generate(channel, request_id="same"))
        (await gateway.next_run()).end()
        await again


async def test_overload_is_resource_exhausted_with_retry_after():
    gateway = FakeGateway()
    gateway.refusal = OverloadedError("queue", 8, 0.2)
    async with grpc_channel(make_frontend(gateway)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(channel)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["retry-after"] == "1"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ShardUnavailableError("shard-1", 2.0), "shard-1"),
        (RuntimeError("secret"), "internal error"),
        (None, "ended the stream early"),
    ],
)
async def test_failure_after_acceptance_ends_each_choice_once(failure, error):
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        asking = asyncio.create_task(generate(channel, sampling=pb.SamplingParams(n=2)))
        run = await gateway.next_run()
        run.emit(*ids_of("go"), choice=0)
        run.end(choice=1)
        run.break_off() if failure is None else run.fail(failure)
        events = await asking
    ends = [e.finished for e in events if e.HasField("finished")]
    assert [(end.choice, end.reason) for end in ends] == [
        (1, pb.FINISH_REASON_STOP),
        (0, pb.FINISH_REASON_ERROR),
    ]
    assert error in ends[1].error
    assert "secret" not in ends[1].error
    assert events[-1].HasField("usage")


async def test_failed_generate_once_has_the_status_of_the_failure():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        asking = asyncio.ensure_future(stub.GenerateOnce(pb.GenerateRequest(text="a")))
        run = await gateway.next_run()
        run.emit(5)
        run.fail(ShardUnavailableError("shard-1", 2.0))
        with pytest.raises(grpc.aio.AioRpcError, match="shard-1") as caught:
            await asking
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("num_tokens", [0, 3])
async def test_closed_stream_aborts_its_request(num_tokens):
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        call = stub.Generate(pb.GenerateRequest(text="Once"))
        reading = asyncio.create_task(call.read())
        run = await gateway.next_run()
        for _ in range(num_tokens):
            run.emit(5)
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.wait_for(run.aborted.wait(), 60)
        await asyncio.gather(reading, return_exceptions=True)
        await asyncio.wait_for(frontend.drain(), 60)


async def test_abort_ends_the_stream_with_its_own_reason():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        asking = asyncio.create_task(generate(channel, request_id="mine"))
        run = await gateway.next_run()
        run.emit(5)
        assert (await stub.Abort(pb.AbortRequest(request_id="mine"))).was_running
        events = await asking
        assert not (await stub.Abort(pb.AbortRequest(request_id="mine"))).was_running
    assert [e.finished.reason for e in events if e.HasField("finished")] == [pb.FINISH_REASON_ABORT]


async def test_hundred_streams_at_once_are_kept_apart():
    gateway = FakeGateway()

    def answer_own_prompt(run):
        run.play([Answer([*run.request.prompt_token_ids, *ids_of(" and so on, and so on")])])

    gateway.prepare = answer_own_prompt
    async with grpc_channel(make_frontend(gateway)) as channel:
        asked = [pb.TokenIds(ids=ids_of(f"number {i}")) for i in range(100)]
        async with asyncio.timeout(20):
            all_events = await asyncio.gather(
                *(generate(channel, token_ids=ids, text=None) for ids in asked)
            )
    for number, events in enumerate(all_events):
        assert text_of(events) == f"number {number} and so on, and so on"
        assert sum(e.HasField("finished") for e in events) == 1
        assert events[-1].HasField("usage")


async def test_chat_takes_reasoning_content_and_calls_apart():
    gateway = FakeGateway(answer(THINK, "Hm.", END_THINK, "Ok", CALLS, "f", ARGS, "{}"))
    tool = pb.Tool(name="f", description="d", parameters_json_schema='{"type": "object"}')
    messages = [
        pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hello")]),
        pb.ChatMessage(
            role="assistant",
            tool_calls=[pb.ToolCall(id="abcdefghi", name="f", arguments_json="{}")],
        ),
        pb.ChatMessage(
            role="tool", tool_call_id="abcdefghi", content=[pb.ContentPart(text="sunny")]
        ),
    ]
    request = pb.ChatRequest(messages=messages, tools=[tool], reasoning_effort="high")
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        events = [event async for event in stub.Chat(request)]
    deltas = [e.delta for e in events if e.HasField("delta")]
    assert "".join(d.reasoning for d in deltas) == "Hm."
    assert "".join(d.content for d in deltas) == "Ok"
    [started] = [d.tool_call for d in deltas if d.HasField("tool_call")]
    assert (started.name, len(started.id)) == ("f", 9)
    assert "".join(d.tool_arguments.json_delta for d in deltas) == "{}"
    assert [t for e in events for t in e.tokens.token_ids] == [*gateway.answers[0].token_ids, 2]
    [end] = [e.finished for e in events if e.HasField("finished")]
    assert end.reason == pb.FINISH_REASON_TOOL_CALLS
    assert events[-1].usage.reasoning_tokens == len(ids_of("Hm."))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ChatRequest(), "messages"),
        (
            pb.ChatRequest(
                messages=[pb.ChatMessage(role="user", content=[pb.ContentPart(image=b"x")])]
            ),
            "messages[0].content[0].image",
        ),
        (
            pb.ChatRequest(tools=[pb.Tool(name="f", parameters_json_schema="{oops")]),
            "tools[0].parameters_json_schema",
        ),
        (
            pb.ChatRequest(sampling=pb.SamplingParams(prompt_logprobs=1)),
            "sampling.prompt_logprobs",
        ),
    ],
)
async def test_bad_chat_is_refused_by_field(request_, field):
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Chat(request_).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(f"{field}: ")


async def test_images_reach_the_gateway_from_chat_and_from_ids():
    file = io.BytesIO()
    Image.new("RGB", (56, 28), "teal").save(file, "PNG")
    gateway = FakeGateway(answer("ok"), takes_images=True)
    content = [pb.ContentPart(text="See"), pb.ContentPart(image=file.getvalue())]
    chat = pb.ChatRequest(messages=[pb.ChatMessage(role="user", content=content)])
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        async for _ in stub.Chat(chat):
            pass
        ids = pb.TokenIds(ids=gateway.runs[0].request.prompt_token_ids)
        await generate(channel, token_ids=ids, images=[file.getvalue()], text=None)
        with pytest.raises(grpc.aio.AioRpcError, match="images: 0 given"):
            await generate(channel, token_ids=ids, text=None)
    [seen], [given] = (run.request.images for run in gateway.runs)
    assert (seen.grid_width, seen.grid_height) == (2, 1)
    assert (seen.offset, seen.content_hash) == (given.offset, given.content_hash)
