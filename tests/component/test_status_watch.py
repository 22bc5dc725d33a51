"""``galerne status --watch`` on a terminal, against a real gRPC server."""

import asyncio

from helpers.api_servers import grpc_served, make_frontend
from helpers.fake_gateway import FakeGateway
from helpers.serve_process import run_cli
from helpers.watched_cli import watch_cli
from router.engine.gateway_port import ClusterFacts, PartFacts

PARTS = (
    PartFacts(id="gateway-0", kind="gateway", is_live=True),
    PartFacts(id="shard-3", kind="shard", is_live=False),
)


async def test_status_is_shown_again_and_again_until_it_is_interrupted():
    gateway = FakeGateway()
    gateway.cluster_now = ClusterFacts(mode="latency", epoch=4, gateways=(), parts=PARTS)
    async with grpc_served(make_frontend(gateway)) as target:
        arguments = ("status", "--target", target, "--interval-s", "0.2")
        shown, code = await asyncio.to_thread(watch_cli, *arguments, times=3)
    assert code == 0, shown
    assert "epoch 4" in shown
    assert "gateway-0" in shown
    assert "shard-3" in shown
    assert "gone" in shown


async def test_a_server_that_never_answered_is_no_watch():
    refused = await asyncio.to_thread(run_cli, "status", "--watch", "--target", "127.0.0.1:1")
    assert refused.returncode == 1
    assert "no server answers there" in refused.stderr
    both = await asyncio.to_thread(run_cli, "status", "--watch", "--json")
    assert both.returncode == 1
    assert "json" in both.stderr
