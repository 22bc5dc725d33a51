"""Several frontends of one deployment, at real servers: what one does, the others know."""

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace

import grpc
import httpx
import openai
import pytest

from galerne.adapters import AdapterInfo
from galerne.errors import NotServingError
from galerne.v1 import cluster_pb2 as cluster_pb
from galerne.v1 import cluster_pb2_grpc
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import (
    cluster_served,
    grpc_channel,
    http_served,
    ids_of,
    make_frontend,
    openai_client,
    telling,
)
from helpers.explained import FakeController
from helpers.fake_gateway import Answer, FakeGateway
from helpers.gateway_process import TOKEN, Directory
from helpers.resuming import open_call, read, read_rest, request_of, resume, resume_call
from helpers.waiting import until
from router.api import http_app
from router.api.beat import FrontendBeat
from router.api.cluster_servicer import ClusterServicer
from router.api.inputs import ApiLimits, GenerateInput
from router.api.keys import ApiKeys
from router.api.shared_accounts import SharedAccounts
from router.engine.gateway_port import ClusterFacts
from router.gateway.pool import GatewayPool

HELLO = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def beside(gateway, num, *keys):
    """Channels to so many frontends over one gateway; each with ``frontend`` and ``pool``."""
    async with AsyncExitStack() as stack:
        channels = []
        for _ in range(num):
            pool = GatewayPool(Directory(gateway=gateway.address), TOKEN, failover_wait_s=5.0)
            await pool.start(60.0)
            stack.push_async_callback(pool.close)
            frontend = make_frontend(pool, keys=ApiKeys(keys))
            stack.push_async_callback(frontend.close)
            channel = await stack.enter_async_context(grpc_channel(frontend))
            channel.frontend, channel.pool = frontend, pool
            channels.append(channel)
        yield channels


def key_of(key):
    return (("authorization", f"Bearer {key}"),)


async def run_one(frontend):
    """Kinds of the events of a request."""
    return [
        type(event).__name__ async for event in frontend.generate(GenerateInput(prompt="hello"))
    ]


# -- draining -----------------------------------------------------------------------------------


@asynccontextmanager
async def two_that_drain(gateway):
    controller = FakeController()
    one, other = make_frontend(gateway), make_frontend(gateway)
    async with (
        cluster_served(controller, one) as port,
        telling(controller, other),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await until(lambda: controller.frontends.num_live == 2)
        yield cluster_pb2_grpc.ClusterServiceStub(channel), controller, one, other


async def test_whoever_is_asked_to_drain_all_frontends_do_and_it_ends_with_the_last():
    gateway = FakeGateway()
    async with two_that_drain(gateway) as (stub, _, one, other):
        running = [asyncio.create_task(run_one(frontend)) for frontend in (one, other)]
        runs = [await gateway.next_run() for _ in running]
        told = [message async for message in ended_meanwhile(stub, runs)]
        assert max(message.running for message in told) == 2
        assert (told[-1].running, told[-1].aborted) == (0, 0)
        for frontend in (one, other):
            assert await frontend.unready_reason() == "draining"
            with pytest.raises(NotServingError):
                await run_one(frontend)
        assert [(await task)[-1] for task in running] == ["Usage", "Usage"]


async def ended_meanwhile(stub, runs):
    """Progress of a drain, whose requests end one after the other once both were counted."""
    async for message in stub.Drain(cluster_pb.DrainRequest(deadline_s=20)):
        yield message
        if runs and message.running == len(runs):
            runs.pop().end()


async def test_at_the_deadline_the_other_frontend_aborts_what_it_runs():
    gateway = FakeGateway()
    async with two_that_drain(gateway) as (stub, _, _, other):
        running = asyncio.create_task(run_one(other))
        await gateway.next_run()
        told = [m async for m in stub.Drain(cluster_pb.DrainRequest(deadline_s=0.2))]
        assert (told[-1].running, told[-1].aborted) == (0, 1)
        await running


async def test_without_the_controller_nobody_drains_and_it_says_so():
    async with two_that_drain(FakeGateway()) as (stub, controller, one, _):
        controller.is_away = True
        with pytest.raises(grpc.aio.AioRpcError, match="controller") as refused:
            await stub.Drain(cluster_pb.DrainRequest(deadline_s=1)).read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await one.unready_reason() is None


async def test_a_frontend_that_starts_while_the_others_drain_takes_nothing():
    gateway = FakeGateway()
    async with two_that_drain(gateway) as (stub, controller, _, _):
        assert [m.running async for m in stub.Drain(cluster_pb.DrainRequest(deadline_s=0))][-1] == 0
        late = make_frontend(gateway)
        async with telling(controller, late):
            await until(lambda: late.drainer.drained != "")
            with pytest.raises(NotServingError):
                await run_one(late)


async def test_events_end_with_their_frontend_so_that_a_client_asks_another():
    servicer = ClusterServicer(FakeController(), make_frontend(FakeGateway()))
    request = cluster_pb.WatchEventsRequest(after=0)
    with pytest.raises(NotServingError, match="another"):
        _ = [event async for event in servicer.stream_events(request, lambda: True)]


# -- resumable streams --------------------------------------------------------------------------


async def test_a_stream_goes_from_frontend_to_frontend_and_no_token_is_lost(standing):
    request = request_of("generate", request_id="moves", sampling=sampling(300))
    async with beside(standing, 3) as channels:
        whole = [e async for e in open_call(channels[0], asked_anew(request, "whole"))]
        calls = [open_call(channels[0], request)]
        had = await read(calls[0], 20)
        for channel in (channels[1], channels[2], channels[0]):
            calls.append(resume_call(channel, "generate", "moves", [pb.ResumePoint(offset=19)]))
            await read(calls[-1], 3)
        for call in calls[:-1]:
            with suppress(grpc.aio.AioRpcError):  # the newest client has it
                await read_rest(call)
            assert await call.code() is grpc.StatusCode.ABORTED
        assert "moves" not in channels[1].frontend.streams._streams
        rest = await resume(channels[1], "generate", "moves", [pb.ResumePoint(offset=19)])
    assert tokens_of(had) + tokens_of(rest) == tokens_of(whole)


async def test_a_frontend_that_lets_go_of_what_has_ended_takes_it_from_nobody(standing):
    """Its client went to another frontend, and goes on to a third."""
    request = request_of("generate", request_id="ended", sampling=sampling(30))
    async with beside(standing, 3) as channels:
        first = channels[0].frontend.streams
        first._limits = ApiLimits(resume_grace_s=2.0)  # its gateway keeps it for 30 s
        call = open_call(channels[0], request)
        await read(call, 3)
        call.cancel()
        await until(lambda: first._streams["ended"].log.is_closed)
        whole = await resume(channels[1], "generate", "ended")
        await until(lambda: "ended" not in first._streams)
        assert await resume(channels[2], "generate", "ended") == whole
    assert len(tokens_of(whole)) == 30


async def test_a_request_is_aborted_at_any_frontend_by_its_owner_alone(standing):
    async with beside(standing, 2, "mine", "other") as (at, elsewhere):
        stub = pb_grpc.InferenceServiceStub(elsewhere)
        for resumable in (False, True):
            name = f"abort-{resumable}"
            request = request_of(
                "generate", request_id=name, resumable=resumable, sampling=sampling(900)
            )
            call = open_call(at, request, "mine")
            await read(call, 3)
            abort = pb.AbortRequest(request_id=name)
            assert not (await stub.Abort(abort, metadata=key_of("other"))).was_running
            assert (await stub.Abort(abort, metadata=key_of("mine"))).was_running
            ends = [e.finished.reason for e in await read_rest(call) if e.HasField("finished")]
            assert ends == [pb.FINISH_REASON_ABORT]


def sampling(num_tokens):
    return pb.SamplingParams(temperature=1.0, seed=11, ignore_eos=True, max_tokens=num_tokens)


def asked_anew(request, name):
    copy = pb.GenerateRequest()
    copy.CopyFrom(request)
    copy.request_id = name
    return copy


def tokens_of(events):
    return [token for event in events for token in event.tokens.token_ids]


# -- keys, adapters, metrics --------------------------------------------------------------------


async def test_a_key_has_its_limit_once_over_all_frontends(tmp_path):
    gateway = FakeGateway()
    accounts = [SharedAccounts(tmp_path / "accounts") for _ in range(2)]
    keys = ["one concurrency=1", "few requests_per_min=3"]
    at, other = (make_frontend(gateway, keys=ApiKeys(keys), cells_of=a.cells) for a in accounts)
    async with grpc_channel(at) as channel, openai_client(other, api_key="one") as client:
        call = open_call(channel, pb.GenerateRequest(text="Hello"), "one")
        run = await gateway.next_run()
        run.emit(5)
        await read(call, 1)
        with pytest.raises(openai.RateLimitError, match="concurrency limit 1"):
            await client.chat.completions.create(model="fake", messages=HELLO)
        run.end()
        await read_rest(call)
        gateway.answers = (Answer(ids_of("ok")),)
        await client.chat.completions.create(model="fake", messages=HELLO)
        few, stub = client.with_options(api_key="few"), pb_grpc.InferenceServiceStub(channel)
        for _ in range(2):
            await few.chat.completions.create(model="fake", messages=HELLO)
        request = pb.GenerateRequest(text="Hello")
        await stub.GenerateOnce(request, metadata=key_of("few"))
        with pytest.raises(openai.RateLimitError, match="requests_per_min limit 3"):
            await few.chat.completions.create(model="fake", messages=HELLO)
        with pytest.raises(grpc.aio.AioRpcError, match="requests_per_min limit 3"):
            await stub.GenerateOnce(request, metadata=key_of("few"))
    for one in accounts:
        one.close()


async def test_an_adapter_that_was_loaded_at_another_frontend_is_served_at_once():
    gateway = FakeGateway(Answer(ids_of("ok")))
    info = AdapterInfo(name="sql", directory="sql", id="ab" * 8, rank=4, num_bytes=9)

    async def refresh():
        gateway.adapters = (info,)

    gateway.refresh = refresh
    async with openai_client(make_frontend(gateway)) as client:
        await client.chat.completions.create(model="sql", messages=HELLO)
        assert gateway.runs[-1].request.adapter == info.id
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=HELLO)


class Told(FakeGateway):
    """Reports what the controller has been told."""

    def __init__(self, controller, *answers):
        super().__init__(*answers)
        self._controller = controller

    async def cluster(self):
        return ClusterFacts(
            mode="latency", epoch=1, process_metrics=self._controller.frontends.metrics()
        )


async def test_every_frontend_shows_the_metrics_of_all_up_to_now():
    controller = FakeController()
    gateway = Told(controller, Answer(ids_of("ok")))
    pair = [make_frontend(gateway) for _ in range(2)]
    async with telling(controller, *pair), httpx.AsyncClient() as client:
        await until(lambda: controller.frontends.num_live == 2)
        for frontend in pair:
            await run_one(frontend)
            await frontend.tell()
        for frontend in pair:
            async with http_served(frontend) as url:
                lines = (await client.get(f"{url}/metrics")).text.splitlines()
            for name in ("frontend-0", "frontend-1"):
                labels = f'api="generate",outcome="stop",process="{name}"'
                assert f"galerne_requests_total{{{labels}}} 1.0" in lines
            assert not [line for line in lines if 'process="frontend"' in line]


@pytest.fixture
async def newcomer(monkeypatch):
    """Two frontends and their controller; the other has come after the one's last beat."""
    controller = FakeController()
    gateway = Told(controller, Answer(ids_of("ok")))
    one, other = (make_frontend(gateway) for _ in range(2))
    for frontend in (one, other):
        FrontendBeat(
            frontend, SimpleNamespace(frontend_news=partial(told_to, controller, frontend))
        )
    await run_one(one)
    await one.tell()
    monkeypatch.setattr(http_app, "_LATE_S", 60.0)
    async with http_served(other) as url, httpx.AsyncClient() as client:
        page = asyncio.create_task(client.get(f"{url}/metrics"))
        await until(lambda: controller.frontends.num_live == 2)
        yield one, other, page


async def told_to(controller, frontend, news):
    return await controller.frontend_news(str(id(frontend)), news)


def requests_by_process(page):
    return re.findall(r'^galerne_requests_total\{.*process="(\S+)"\} (\S+)$', page.text, re.M)


async def test_a_frontend_that_is_alone_writes_its_metrics_for_whoever_asks_it_only():
    controller = FakeController()
    frontend = make_frontend(Told(controller, Answer(ids_of("ok"))))
    written, write = [], frontend.metrics.set.text
    frontend.metrics.set.text = lambda: written.append(write()) or written[-1]
    async with (
        telling(controller, frontend),
        http_served(frontend) as url,
        httpx.AsyncClient() as client,
    ):
        await run_one(frontend)
        beats = partial(
            frontend.metrics.set.registry.get_sample_value, "galerne_frontend_beats_total"
        )
        await until(lambda: beats() >= 3)
        assert written == []
        page = await client.get(f"{url}/metrics")
    assert requests_by_process(page) == [("frontend-0", "1.0")]
    assert len(written) == 1


async def test_a_page_of_one_that_has_just_come_waits_for_one_that_was_alone(newcomer):
    one, other, page = newcomer
    await run_one(other)
    await asyncio.sleep(0.3)
    assert not page.done()
    await one.tell()
    found = requests_by_process(await asyncio.wait_for(page, 60))
    assert found == [("frontend-0", "1.0"), ("frontend-1", "1.0")]


async def test_a_page_does_not_wait_long_for_a_frontend_that_has_died(newcomer, monkeypatch):
    _, other, page = newcomer
    await run_one(other)
    page.cancel()
    monkeypatch.setattr(http_app, "_LATE_S", 0.2)
    async with http_served(other) as url, httpx.AsyncClient() as client:
        found = await asyncio.wait_for(client.get(f"{url}/metrics"), 60)
    assert requests_by_process(found) == [("frontend-1", "1.0")]


async def test_a_frontend_that_nobody_scrapes_tells_the_others_whether_it_is_ready():
    controller = FakeController()
    gateway = Told(controller)
    scraped, other = (make_frontend(gateway) for _ in range(2))

    async with telling(controller, scraped, other), httpx.AsyncClient() as client:
        await until(lambda: controller.frontends.num_live == 2)
        async with http_served(scraped) as url:

            async def ready():
                lines = (await client.get(f"{url}/metrics")).text.splitlines()
                return sorted(line[-3:] for line in lines if line.startswith("galerne_ready{"))

            async def becomes(values):
                async with asyncio.timeout(60):
                    while await ready() != values:  # noqa: ASYNC110 - each look is a request
                        await asyncio.sleep(0.01)

            await becomes(["1.0", "1.0"])
            other.start_draining()
            await becomes(["0.0", "1.0"])
            gateway.unready = "no shard holds layer 3"
            await becomes(["0.0", "0.0"])
