"""Resumable requests outlive their frontend at the gateway, and their gateway at the frontend."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import embedded, grpc_channel
from helpers.gateway_process import TOKEN, Directory, GatewayProcess, held_up, speaking_settings
from helpers.resuming import (
    open_call,
    points_of,
    read,
    read_rest,
    request_of,
    resume,
    resume_call,
)
from helpers.waiting import until
from router.api.frontend import Frontend
from router.api.inputs import ApiLimits
from router.api.keys import ApiKeys
from router.gateway.host import GatewayHost
from router.gateway.pool import GatewayPool

SAMPLED = {"temperature": 1.0, "seed": 11, "logprobs": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def standing():
    """A gateway that nothing happens to."""
    host = GatewayHost(speaking_settings(0), None)
    yield host
    host.stop()


@asynccontextmanager
async def served(keys=(), grace_s=30.0, **gateways):
    """A channel to a new frontend over a new pool; ``channel.pool`` and ``.frontend``."""
    pool = GatewayPool(Directory(**gateways), TOKEN, failover_wait_s=5.0)
    await pool.start(60.0)
    limits = ApiLimits(resume_grace_s=grace_s)
    frontend = Frontend(pool, embedded(), limits, ApiKeys(keys))
    try:
        async with grpc_channel(frontend) as channel:
            channel.pool, channel.frontend = pool, frontend
            yield channel
    finally:
        await frontend.close()
        await pool.close()


def asked(api, name, num_tokens=60, **sampling):
    sampling = pb.SamplingParams(**(SAMPLED | {"max_tokens": num_tokens} | sampling))
    return request_of(api, request_id=name, sampling=sampling)


def by_choice(events):
    """The parts of every choice in order; how choices take turns depends on the gateway."""
    parts = {}
    for event in events:
        kind = event.WhichOneof("event")
        if kind in ("tokens", "delta", "finished"):
            parts.setdefault(getattr(event, kind).choice, []).append(event)
    return parts


def running_on(gateway):
    """Within it, what begins there does not end: it stops after 60 steps."""
    return held_up(gateway.engine, gateway.engine.num_steps + 60)


def is_followed(gateway, name):
    """Whether a frontend reads a request at a gateway: that its engine runs it comes before."""
    held = gateway.hub.held._held.get(name)
    return held is not None and held.log.has_reader


async def begun(channel, request, num_events):
    """What a client had that has left, and its points."""
    call = open_call(channel, request)
    had = await read(call, num_events)
    call.cancel()
    return had, points_of(had, request.sampling.n or 1)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("api", ["generate", "chat"])
async def test_new_frontend_goes_on_with_what_the_lost_one_ran(standing, api, n):
    name = f"replaced-{api}-{n}"
    gateways = {"gateway-0": standing.address}
    with running_on(standing):
        async with served(**gateways) as channel:
            had, points = await begun(channel, asked(api, name, 300, n=n), 30)
            running = channel.frontend.streams._streams[name]
            assert not running.log.is_closed
    async with served(**gateways) as channel:
        rest = await resume(channel, api, name, points)
        whole = await resume(channel, api, name)  # that frontend keeps it now
        again = [e async for e in open_call(channel, asked(api, f"{name}-again", 300, n=n))]
    assert rest[0] == had[0]
    assert by_choice([*had, *rest]) == by_choice(whole)
    same_tokens = {
        c: [t for e in es for t in e.tokens.token_ids] for c, es in by_choice(whole).items()
    }
    for choice, events in by_choice(again).items():
        assert [t for e in events for t in e.tokens.token_ids] == same_tokens[choice]
    assert rest[-1].usage.completion_tokens == 300 * n
    await until(lambda: standing.engine.load().running == 0)


async def test_frontend_finds_at_the_gateway_what_ended_without_any_frontend(standing):
    async with served(gateway=standing.address) as channel:
        had, points = await begun(channel, asked("generate", "ended", 40), 5)
    await until(lambda: standing.engine.load().running == 0)
    async with served(gateway=standing.address) as channel:
        rest = await resume(channel, "generate", "ended", points)
    tokens = [t for e in [*had, *rest] for t in e.tokens.token_ids]
    assert len(tokens) == 40


async def test_gateway_keeps_a_request_for_its_grace_only(standing):
    async with served(gateway=standing.address, grace_s=0.3) as channel:
        await begun(channel, asked("generate", "short", 1000), 5)
    await until(lambda: standing.engine.load().running == 0)
    await until(lambda: "short" not in standing.hub.held._held)
    async with served(gateway=standing.address, grace_s=0.3) as channel:
        await asyncio.sleep(0.4)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, "generate", "short")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_frontend_that_lives_ends_a_request_after_its_grace(standing):
    async with served(gateway=standing.address, grace_s=0.3) as channel:
        await begun(channel, asked("generate", "left", 1000), 5)
        await until(lambda: standing.engine.load().running == 0)
        await until(lambda: "left" not in standing.hub.held._held)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(channel, "generate", "left")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_stranger_at_a_new_frontend_finds_nothing_and_disturbs_nothing(standing):
    keys = ["mine", "other"]
    async with served(keys, gateway=standing.address) as old:
        call = open_call(old, asked("generate", "guarded", 400), key="mine")
        had = await read(call, 5)
        async with served(keys, gateway=standing.address, grace_s=0.01) as new:
            await asyncio.sleep(0.05)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await resume(new, "generate", "guarded", key="other")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        had += await read_rest(call)
    assert had[-1].usage.completion_tokens == 400


async def test_client_that_comes_back_over_another_frontend_has_the_stream(standing):
    async with served(gateway=standing.address) as old, served(gateway=standing.address) as new:
        with running_on(standing):
            first = open_call(old, asked("generate", "two", 600))
            await read(first, 5)
            second = resume_call(new, "generate", "two")
            await read(second, 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_rest(first)
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert "two" not in old.frontend.streams._streams
        assert (await read_rest(second))[-1].usage.completion_tokens == 600


async def test_stop_string_is_found_again_and_ends_the_request_at_the_gateway(standing):
    async with served(gateway=standing.address) as channel:
        free = [e async for e in open_call(channel, asked("generate", "free", 60))]
        text = "".join(e.tokens.text for e in free)
        stop = text[len(text) // 2 :][:6]
        cut = text[: text.index(stop)]
        request = asked("generate", "stops", 1000, stop=[stop])
        had, points = await begun(channel, request, 3)
    async with served(gateway=standing.address) as channel:
        rest = await resume(channel, "generate", "stops", points)
        await until(lambda: standing.engine.load().running == 0)
    assert "".join(e.tokens.text for e in [*had, *rest]) == cut
    [end] = [e.finished for e in rest if e.HasField("finished")]
    assert end.stop == stop


async def test_explicit_abort_ends_a_request_that_no_frontend_follows(standing):
    async with served(gateway=standing.address) as channel:
        await begun(channel, asked("generate", "aborted", 1000), 5)
    async with served(gateway=standing.address) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        assert (await stub.Abort(pb.AbortRequest(request_id="aborted"))).was_running
        await until(lambda: standing.engine.load().running == 0)
        events = await resume(channel, "generate", "aborted")
    assert [e.finished.reason for e in events if e.HasField("finished")] == [pb.FINISH_REASON_ABORT]


@pytest.mark.parametrize("is_replaced", [False, True], ids=["frontend lives", "then replaced"])
async def test_gateway_lost_while_the_client_is_away_costs_no_token(standing, is_replaced):
    victim = await asyncio.to_thread(GatewayProcess, 1, speaks=True, hold_at=60)
    name = f"killed-{is_replaced}"
    try:
        async with served(victim=victim.address) as channel:
            had, points = await begun(channel, asked("chat", name, 700, n=2), 40)
            channel.pool._directory.gateways["standing"] = standing.address
            await channel.pool.refresh()
            victim.kill()
            await until(lambda: is_followed(standing, name))
            if not is_replaced:
                rest = await resume(channel, "chat", name, points)
        if is_replaced:  # the gateway that took over has what the first one gave out
            async with served(standing=standing.address) as channel:
                rest = await resume(channel, "chat", name, points)
                assert by_choice([*had, *rest]) == by_choice(await resume(channel, "chat", name))
        async with served(standing=standing.address) as channel:
            whole = [e async for e in open_call(channel, asked("chat", f"{name}-whole", 700, n=2))]
        tokens = {c: [e for e in es if e.HasField("tokens")] for c, es in by_choice(whole).items()}
        resumed = by_choice([*had, *rest])
        assert {c: [e for e in es if e.HasField("tokens")] for c, es in resumed.items()} == tokens
        assert points_of(rest, 2)[0].offset == 700
    finally:
        victim.close()


async def test_both_lost_is_unavailable_and_names_where_the_client_was(standing):
    victim = await asyncio.to_thread(GatewayProcess, 1, speaks=True, hold_at=60)
    try:
        async with served(victim=victim.address) as channel:
            _, points = await begun(channel, asked("generate", "both", 900), 20)
            victim.kill()
    finally:
        victim.close()
    async with served(standing=standing.address) as channel:
        reached = f"had reached {points[0].offset} tokens"
        with pytest.raises(grpc.aio.AioRpcError, match=reached) as caught:
            await resume(channel, "generate", "both", points)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_request_that_does_not_ask_for_it_still_ends_with_its_client(standing):
    async with served(gateway=standing.address) as channel:
        request = asked("generate", "plain", 1000)
        request.resumable = False
        await begun(channel, request, 5)
        await until(lambda: standing.engine.load().running == 0)
        assert "plain" not in standing.hub.held._held
