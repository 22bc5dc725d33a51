"""A client that comes back to a resumable stream has, all told, what one gets who never left."""

import asyncio
from contextlib import aclosing

import grpc
import pytest

from galerne.errors import ConfigError, NotServingError, OverloadedError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import grpc_channel, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from helpers.resuming import open_call, points_of, read, read_rest, request_of, resume, resume_call
from helpers.waiting import until
from router.api.inputs import ApiLimits, GenerateInput, Resumable
from router.api.keys import ApiKeys
from router.engine.request import FinishReason, TokenLogprob, TokenLogprobs

CALLS, ARGS, THINK, END_THINK = 9, 32, 34, 35
TALK = ids_of(THINK, "Hm, 😀", END_THINK, "Grüße 😀 STOP")
TOOLS = ids_of(
    THINK, "Hm.", END_THINK, "Ok", CALLS, "f", ARGS, '{"x": "ü"}', CALLS, "f", ARGS, "{}"
)


def logprobs_of(ids):
    return [TokenLogprobs(TokenLogprob(t, -0.25), (TokenLogprob(5, -0.5),)) for t in ids]


def answer_of(ids, per_delta=1):
    return Answer(ids, logprobs=logprobs_of(ids), per_delta=per_delta)


def value_of(metrics, name):
    return metrics.set.registry.get_sample_value(name)


@pytest.mark.parametrize("per_delta", [1, 3])
@pytest.mark.parametrize("api", ["generate", "chat"])
async def test_resumed_anywhere_a_stream_is_the_same_event_for_event(api, per_delta):
    gateway = FakeGateway(answer_of(TOOLS, per_delta), answer_of(TALK, per_delta))
    sampling = pb.SamplingParams(n=2, logprobs=1, stop=["STOP"], seed=7)
    async with grpc_channel(make_frontend(gateway)) as channel:
        num_events = cut = 1
        while cut <= num_events:
            name = f"{api}-{cut}"
            call = open_call(channel, request_of(api, request_id=name, sampling=sampling))
            had = await read(call, cut)
            call.cancel()
            rest = await resume(channel, api, name, points_of(had, 2))
            whole = await resume(channel, api, name)
            assert rest[0] == had[0] == whole[0]  # it is accepted anew
            is_whole = had == whole  # the usage, which ends a stream, comes again
            assert rest[1:] == ([whole[-1]] if is_whole else whole[cut:])
            assert had == whole[:cut]
            num_events, cut = len(whole), cut + 1
    ends = [e.finished for e in whole if e.HasField("finished")]
    tool_end = pb.FINISH_REASON_TOOL_CALLS if api == "chat" else pb.FINISH_REASON_STOP
    assert {e.choice: e.reason for e in ends} == {0: tool_end, 1: pb.FINISH_REASON_STOP}
    assert [e.stop for e in ends if e.choice == 1] == ["STOP"]


@pytest.mark.parametrize("api", ["generate", "chat"])
async def test_resumable_stream_says_what_any_other_says(api):
    gateway = FakeGateway(answer_of(TOOLS), answer_of(TALK))
    sampling = pb.SamplingParams(n=2, logprobs=1, stop=["STOP"], seed=7)

    async def said(channel, *, resumable):
        request = request_of(api, request_id="same", sampling=sampling, resumable=resumable)
        events = [event async for event in open_call(channel, request)]
        for event in events:
            event.delta.tool_call.ClearField("id") if api == "chat" else None
        return events

    async with grpc_channel(make_frontend(gateway)) as channel:
        assert await said(channel, resumable=False) == await said(channel, resumable=True)


@pytest.mark.parametrize("offset", range(1, len(TALK) + 1))
async def test_offset_alone_continues_text_after_its_token(offset):
    gateway = FakeGateway(answer_of(TALK))
    async with grpc_channel(make_frontend(gateway)) as channel:
        call = open_call(channel, request_of("generate", request_id="r"))
        whole = [event async for event in call]
        rest = await resume(channel, "generate", "r", [pb.ResumePoint(offset=offset)])
    tokens = [e for e in whole if e.HasField("tokens")]
    assert rest == [whole[0], *tokens[offset:], *whole[-2:]]


async def test_request_runs_on_without_its_client_who_comes_back_for_the_rest():
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    ids = ids_of("one two three four five six")
    async with grpc_channel(frontend) as channel:
        call = open_call(channel, request_of("generate", request_id="r"))
        run = await gateway.next_run()
        run.emit(*ids[:2])
        had = await read(call, 3)
        assert value_of(frontend.metrics, "galerne_streams_parked") == 0
        call.cancel()
        await until(lambda: value_of(frontend.metrics, "galerne_streams_parked") == 1)
        run.emit(*ids[2:4])
        assert value_of(frontend.metrics, "galerne_requests_running") == 1
        back = resume_call(channel, "generate", "r", points_of(had, 1))
        had += (await read(back, 3))[1:]
        run.emit(*ids[4:])
        run.end()
        had += await read_rest(back)
    assert [t for e in had for t in e.tokens.token_ids] == [*ids, 2]
    assert "".join(e.tokens.text for e in had) == "one two three four five six"
    assert not run.aborted.is_set()
    assert value_of(frontend.metrics, "galerne_streams_resumed_total") == 1
    outcome = {"api": "generate", "outcome": "stop"}
    assert frontend.metrics.set.registry.get_sample_value("galerne_requests_total", outcome) == 1


@pytest.mark.parametrize("is_over", [False, True])
async def test_after_the_grace_a_stream_is_aborted_and_not_found(is_over):
    gateway = FakeGateway()
    frontend = make_frontend(gateway, limits=ApiLimits(resume_grace_s=1.0))
    async with grpc_channel(frontend) as channel:
        call = open_call(channel, request_of("generate", request_id="r"))
        run = await gateway.next_run()
        run.emit(5, reason=FinishReason.LENGTH if is_over else None)
        await read(call, 2)
        call.cancel()
        await until(lambda: value_of(frontend.metrics, "galerne_streams_parked") == 1)
        if not is_over:
            await asyncio.wait_for(run.aborted.wait(), 60)
        await until(lambda: value_of(frontend.metrics, "galerne_streams_parked") == 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, "generate", "r")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert value_of(frontend.metrics, "galerne_requests_running") == 0
    assert not frontend.streams._streams


async def test_stranger_finds_nothing_and_disturbs_nothing():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=ApiKeys(["mine", "other"]))
    async with grpc_channel(frontend) as channel:
        call = open_call(channel, request_of("generate", request_id="r"), key="mine")
        run = await gateway.next_run()
        run.emit(5)
        await read(call, 2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, "generate", "r", key="other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        run.end()
        assert [e.WhichOneof("event") for e in await read_rest(call)] == [
            "tokens",
            "finished",
            "usage",
        ]
        assert await resume(channel, "generate", "r", key="mine")


async def test_newest_client_has_the_stream_and_the_older_is_told():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        first = open_call(channel, request_of("generate", request_id="r"))
        run = await gateway.next_run()
        run.emit(5)
        await read(first, 2)
        second = resume_call(channel, "generate", "r")
        await read(second, 2)
        with pytest.raises(grpc.aio.AioRpcError, match="a newer client has resumed it") as caught:
            await first.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        run.end()
        assert [e.WhichOneof("event") for e in await read_rest(second)] == [
            "tokens",
            "finished",
            "usage",
        ]


async def test_parked_streams_of_a_key_give_way_beyond_its_limits():
    gateway = FakeGateway()
    limits = ApiLimits(max_parked=2, max_parked_tokens=100)
    frontend = make_frontend(gateway, limits=limits, keys=ApiKeys(["one", "two"]))
    runs = []
    async with grpc_channel(frontend) as channel:
        for i, key in enumerate(["one", "two", "one", "one"]):
            call = open_call(channel, request_of("generate", request_id=f"r{i}"), key=key)
            runs.append(await gateway.next_run())
            runs[-1].emit(5)
            await read(call, 2)
            call.cancel()
            await until(lambda: frontend.streams.num_unattended == min(len(runs), 3))
        await asyncio.wait_for(runs[0].aborted.wait(), 60)  # the oldest of its key
        assert [run.aborted.is_set() for run in runs] == [True, False, False, False]
        runs[2].emit(*[5] * 60)
        await asyncio.sleep(0.05)
        assert not runs[2].aborted.is_set()
        runs[3].emit(*[5] * 60)  # more tokens than one key may leave here
        await asyncio.wait_for(runs[2].aborted.wait(), 60)
        assert [run.aborted.is_set() for run in runs] == [True, False, True, False]


async def test_streams_that_a_client_had_to_the_end_give_way_first():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, limits=ApiLimits(max_parked=1))
    async with grpc_channel(frontend) as channel:
        running = open_call(channel, request_of("generate", request_id="running"))
        run = await gateway.next_run()
        run.emit(5)
        await read(running, 2)
        running.cancel()
        await until(lambda: frontend.streams.num_unattended == 1)
        whole = open_call(channel, request_of("generate", request_id="whole"))
        (await gateway.next_run()).end()
        assert [e.WhichOneof("event") async for e in whole][-1] == "usage"
        await until(lambda: list(frontend.streams._streams) == ["running"])
        assert not run.aborted.is_set()


async def test_parked_requests_count_as_running():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, limits=ApiLimits(max_running=1))
    async with grpc_channel(frontend) as channel:
        call = open_call(channel, request_of("generate", request_id="r"))
        (await gateway.next_run()).emit(5)
        await read(call, 2)
        call.cancel()
        await until(lambda: frontend.streams.num_unattended == 1)
        with pytest.raises(OverloadedError):
            await anext(frontend.generate(GenerateInput(prompt="b")))
        back = resume_call(channel, "generate", "r")  # takes no place of its own
        assert len(await read(back, 2)) == 2


async def test_abort_ends_a_parked_stream_at_once_with_its_own_reason():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        call = open_call(channel, request_of("generate", request_id="r"))
        run = await gateway.next_run()
        run.emit(5)
        await read(call, 2)
        call.cancel()
        stub = pb_grpc.InferenceServiceStub(channel)
        assert (await stub.Abort(pb.AbortRequest(request_id="r"))).was_running
        assert run.aborted.is_set()
        events = await resume(channel, "generate", "r")
    assert [e.finished.reason for e in events if e.HasField("finished")] == [pb.FINISH_REASON_ABORT]


async def test_client_that_leaves_before_it_learnt_the_id_aborts_its_request():
    gateway = FakeGateway()
    async with grpc_channel(make_frontend(gateway)) as channel:
        call = open_call(channel, request_of("generate"))
        reading = asyncio.create_task(call.read())
        run = await gateway.next_run()
        call.cancel()
        await asyncio.wait_for(run.aborted.wait(), 60)
        await asyncio.gather(reading, return_exceptions=True)


async def test_refusal_of_a_resumable_request_is_that_of_any_other():
    gateway = FakeGateway()
    gateway.refusal = OverloadedError("queue", 8, 0.2)
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await open_call(channel, request_of("generate", request_id="r")).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
    assert not frontend.streams._streams


async def test_id_of_a_stream_is_in_use_while_it_runs_and_free_once_it_has_ended():
    gateway = FakeGateway()
    frontend = make_frontend(gateway, keys=ApiKeys(["mine", "other"]))
    async with grpc_channel(frontend) as channel:

        async def ask(key, **options):
            call = open_call(channel, request_of("generate", request_id="r", **options), key=key)
            return await call.read()

        call = open_call(channel, request_of("generate", request_id="r"), key="mine")
        run = await gateway.next_run()
        run.emit(5)
        await read(call, 2)
        call.cancel()
        for resumable in (True, False):
            with pytest.raises(grpc.aio.AioRpcError, match="r is running already"):
                await ask("mine", resumable=resumable)
        run.end()
        await until(lambda: not frontend.streams.num_unattended)
        with pytest.raises(grpc.aio.AioRpcError, match="r is in use"):
            await ask("other")
        asking = asyncio.create_task(ask("mine"))
        (await gateway.next_run()).emit(6)
        assert (await asking).accepted.request_id == "r"


@pytest.mark.parametrize(
    ("api", "points", "status", "details"),
    [
        ("chat", [], "INVALID_ARGUMENT", "request_id: ResumeGenerate goes on with this stream"),
        ("generate", [pb.ResumePoint()] * 2, "INVALID_ARGUMENT", "points: 2 given"),
        ("generate", [pb.ResumePoint(offset=-1)], "INVALID_ARGUMENT", "points[0]: must not"),
    ],
)
async def test_wrong_resumption_is_refused_by_field(api, points, status, details):
    async with grpc_channel(make_frontend(FakeGateway(answer_of(TALK)))) as channel:
        async for _ in open_call(channel, request_of("generate", request_id="r")):
            pass
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, api, "r", points)
    assert caught.value.code().name == status
    assert caught.value.details().startswith(details)


async def test_frontend_that_has_just_begun_cannot_say_that_a_stream_never_was():
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        points = [pb.ResumePoint(offset=5), pb.ResumePoint(offset=3)]
        with pytest.raises(grpc.aio.AioRpcError, match="had reached 5, 3 tokens") as caught:
            await resume(channel, "generate", "r", points)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_and_closing_wait_for_no_parked_request():
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel:
        parked = open_call(channel, request_of("generate", request_id="parked"))
        (await gateway.next_run()).emit(5)
        await read(parked, 2)
        parked.cancel()
        await until(lambda: frontend.streams.num_unattended == 1)
        await asyncio.wait_for(frontend.drain(), 60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, "generate", "parked")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(frontend.close(), 60)
    assert value_of(frontend.metrics, "galerne_streams_parked") == 0
    assert value_of(frontend.metrics, "galerne_requests_running") == 0


async def test_client_of_a_frontend_that_closes_is_told_to_come_back():
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    call = GenerateInput(prompt="a", request_id="r", resumable=Resumable(b""))
    async with aclosing(frontend.generate(call)) as events:
        asking = asyncio.create_task(anext(events))
        (await gateway.next_run()).emit(5)
        await asking
        await frontend.close()
        with pytest.raises(NotServingError, match="may be resumed"):
            async for _ in events:
                pass


def test_limits_of_resumable_streams_are_checked():
    for change in ({"resume_grace_s": 0.0}, {"max_parked": 0}, {"max_parked_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            ApiLimits(**change)
