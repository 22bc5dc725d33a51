"""Ray Serve scales frontends by our policy, while streams run: a real ingress, a real gateway."""

import asyncio

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.ingress.leaving import LOOK_PERIOD_S, SILENT_AFTER_S
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.ingress_server import IngressServer
from helpers.processes import named
from helpers.resuming import read_rest
from helpers.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

NUM_STREAMS, NUM_TOKENS = 6, 2000
NUM_WATCHES = 4  # some at either frontend
_SHRUNK_S, _ENDED_S = 90.0, 20.0
HEALTH = health_pb2.HealthCheckResponse


@pytest.fixture
def server(gateway):
    """Two frontends, one of which has nothing to do."""
    scaling = {"at_least": 1, "at_most": 2, "first": 2, "shrink_after_s": 2.0}
    running = IngressServer(
        {"mode": "latency", "epoch": 1, "gateways": {"gateway-0": gateway.address}},
        frontends=scaling,
    )
    yield running
    assert running.stop() == 0


async def test_a_frontend_is_scaled_away_while_streams_run_and_nothing_is_lost(server):
    busy = asyncio.Event()
    busy.set()
    watches = []
    async with grpc.aio.insecure_channel(server.started["grpc"]) as channel:
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(streams(server, i, busy)) for i in range(NUM_STREAMS)]
            asked = group.create_task(small_requests(server, busy))
            group.create_task(watch_health(channel, busy, watches))
            await until_state(server, {"RUNNING": 2})
            names = await frontends_of(server)
            await until_state(server, {"RUNNING": 1, "STOPPING": 1})
            assert not any(task.done() for task in answers)
            busy.clear()  # what runs at either of them runs to its end
            for task in answers:
                first, *again = await task
                assert len(first) == NUM_TOKENS
                assert again.count(first) == len(again) > 0
            assert await asked > 20
            await until_state(server, {"RUNNING": 1})  # though someone watches
        assert names == {"frontend-0", "frontend-1"}
        await until_one_is_shown(server)
        await check_ends(server, watches)


async def test_nobody_s_watch_ends_while_serve_s_controller_hangs(server):
    busy, watches = asyncio.Event(), []
    busy.set()
    async with grpc.aio.insecure_channel(server.started["grpc"]) as channel:
        asking = asyncio.create_task(watch_health(channel, busy, watches))
        await until(lambda: len(watches) >= NUM_WATCHES)
        busy.clear()
        await asking
        controller = serves_controller(server)
        controller.suspend()
        try:
            await asyncio.sleep(SILENT_AFTER_S + 4 * LOOK_PERIOD_S)  # no frontend's health is asked
            assert not any(watch.done() for watch in watches)
        finally:
            controller.resume()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


def serves_controller(server):
    """Its process."""
    [found] = named(server.started["pid"], "ray::ServeController")
    return found


async def streams(server, seed, busy):
    """Tokens of the same request again and again, while ``busy``."""
    sampling = pb.SamplingParams(max_tokens=NUM_TOKENS, temperature=1.0, seed=seed, ignore_eos=True)
    answers = []
    async with grpc.aio.insecure_channel(server.started["grpc"]) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        while busy.is_set() or len(answers) < 2:
            call = stub.Generate(pb.GenerateRequest(text="Once", sampling=sampling))
            answers.append([t async for event in call for t in event.tokens.token_ids])
    return answers


async def small_requests(server, busy):
    """How many were answered; each of them was, over connections that stay and over new ones."""
    url, num = f"http://{server.started['http']}/v1/models", 0
    async with httpx.AsyncClient() as kept:
        while busy.is_set():
            async with httpx.AsyncClient() as new:
                for client in (kept, new):
                    answer = await client.get(url)
                    assert answer.status_code == 200, answer.text
                    num += 1
            await asyncio.sleep(0.05)
    return num


async def watch_health(channel, busy, watches):
    """One more who watches, again and again, so that some do at either frontend; their tasks."""
    stub = health_pb2_grpc.HealthStub(channel)
    while busy.is_set():
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == HEALTH.SERVING
        watches.append(asyncio.create_task(rest_of(watch)))
        await asyncio.sleep(0.5)


async def rest_of(watch):
    """Statuses until the server ends the stream."""
    statuses = [response.status for response in await read_rest(watch)]
    assert await watch.code() is grpc.StatusCode.OK
    return statuses


async def check_ends(server, watches):
    """Who watched the one that went can ask elsewhere, and was not told that it does not serve.

    Who watched the other one is told so when that ends, and was told nothing before.
    """
    gone = [watch for watch in watches if watch.done()]
    stayed = [watch for watch in watches if not watch.done()]
    await asyncio.to_thread(server.ask, "close", drain_s=0.0)
    async with asyncio.timeout(_ENDED_S):
        assert await asyncio.gather(*gone) == [[]] * len(gone) != []
        assert await asyncio.gather(*stayed) == [[HEALTH.NOT_SERVING]] * len(stayed) != []


async def frontends_of(server):
    """Processes that the metrics of one frontend show as frontends."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{server.started['http']}/metrics")).text
    shown = {line.split('process="')[1].split('"')[0] for line in text.splitlines() if "{" in line}
    return {name for name in shown if name.startswith("frontend")}


async def until_one_is_shown(server):
    async def ask():
        while len(await frontends_of(server)) != 1:  # noqa: ASYNC110 - a page tells no change
            await asyncio.sleep(0.2)

    await asyncio.wait_for(ask(), 20.0)


async def until_state(server, expected):
    """Until so many frontends are in these states of Serve."""

    async def ask():
        while await asyncio.to_thread(server.ask, "replicas") != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    await asyncio.wait_for(ask(), _SHRUNK_S)
