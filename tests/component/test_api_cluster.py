"""ClusterService over gRPC: what people who run the cluster see and ask for."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from cluster.control.conductor import ChangeRefusedError
from galerne.errors import InvalidRequestError
from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc
from helpers.api_servers import cluster_served, make_frontend
from helpers.explained import FakeController
from helpers.fake_gateway import FakeGateway
from router.api.cluster_port import TopologyWish
from router.api.inputs import GenerateInput


@asynccontextmanager
async def served(gateway=None):
    controller = FakeController()
    frontend = make_frontend(gateway or FakeGateway())
    async with (
        cluster_served(controller, frontend) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield cluster_pb2_grpc.ClusterServiceStub(channel), controller, frontend


async def test_the_topology_is_shown_and_a_wish_reaches_the_controller():
    async with served() as (stub, controller, _):
        shown = await stub.GetTopology(pb.GetTopologyRequest())
        assert (shown.epoch, shown.mode, list(shown.shards)) == (3, "latency", ["shard-1"])
        assert shown.stage == "idle"
        await stub.SetTopology(pb.SetTopologyRequest(mode="throughput", shards=4))
        await stub.SetTopology(pb.SetTopologyRequest(rebalance=True))
        assert controller.wishes == [
            TopologyWish(mode="throughput", shards=4),
            TopologyWish(rebalance=True),
        ]


@pytest.mark.parametrize(
    ("refusal", "code", "said"),
    [
        (ChangeRefusedError("one at a time"), grpc.StatusCode.FAILED_PRECONDITION, "one at a time"),
        (
            InvalidRequestError("shards", "too many"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "shards: too",
        ),
    ],
)
async def test_a_refused_wish_says_why(refusal, code, said):
    async with served() as (stub, controller, _):
        controller.refusal = refusal
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SetTopology(pb.SetTopologyRequest(shards=99))
        assert refused.value.code() is code
        assert said in refused.value.details()


async def test_events_come_from_a_number_on_or_from_now_on():
    async with served() as (stub, controller, _):
        controller.happen("shard_lost")
        controller.happen("experts_adopted")
        known = stub.WatchEvents(pb.WatchEventsRequest(after=1))
        event = await known.read()
        assert (event.number, event.kind, event.part, event.text) == (
            2,
            "experts_adopted",
            "p",
            "t",
        )
        known.cancel()
        coming = stub.WatchEvents(pb.WatchEventsRequest())
        reading = asyncio.create_task(coming.read())
        async with asyncio.timeout(60):
            while not reading.done():  # what happens before the call has come is none of its
                controller.happen("shard_back")
                await asyncio.sleep(0.05)
        assert (await reading).kind == "shard_back"
        coming.cancel()


async def run_one(frontend):
    kinds = []
    async for event in frontend.generate(GenerateInput(prompt="hello")):
        kinds.append(type(event).__name__)
    return kinds


async def test_drain_tells_how_many_run_and_ends_with_none_and_takes_nobody_meanwhile():
    gateway = FakeGateway()
    async with served(gateway) as (stub, _, frontend):
        running = asyncio.create_task(run_one(frontend))
        run = await gateway.next_run()
        drain = aiter(stub.Drain(pb.DrainRequest(deadline_s=20)))
        first = await anext(drain)
        assert first.running == 1
        assert 0 < first.seconds_left <= 20
        assert await frontend.unready_reason() == "draining"
        run.end()
        last = [message async for message in drain][-1]
        assert (last.running, last.aborted) == (0, 0)
        assert (await running)[-1] == "Usage"


async def test_drain_aborts_at_its_deadline_and_refuses_a_negative_one():
    gateway = FakeGateway()
    async with served(gateway) as (stub, _, frontend):
        with pytest.raises(grpc.aio.AioRpcError, match="deadline_s"):
            await stub.Drain(pb.DrainRequest(deadline_s=-1)).read()
        running = asyncio.create_task(run_one(frontend))
        await gateway.next_run()
        messages = [m async for m in stub.Drain(pb.DrainRequest(deadline_s=0.3))]
        assert (messages[-1].running, messages[-1].aborted) == (0, 1)
        await running
