"""Operators change what processes log, by gRPC and by HTTP; others may not."""

import logging

import grpc
import httpx
import pytest

from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc
from helpers.api_servers import cluster_served, http_served, make_frontend
from helpers.explained import FakeController
from helpers.fake_gateway import FakeGateway
from router.api.keys import ApiKeys

PATH = "/v1/cluster/log-level"


async def test_grpc_tells_the_frontend_and_the_controller_and_says_who_did_it():
    controller = FakeController()
    async with (
        cluster_served(controller, make_frontend(FakeGateway())) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        told = await stub.SetLogLevel(pb.SetLogLevelRequest(level="info"))
        assert list(told.parts) == ["controller", "frontend", "gateway-0"]
        assert logging.getLogger("router").level == logging.INFO
        told = await stub.SetLogLevel(pb.SetLogLevelRequest(level="debug", part="gateway-0"))
        assert list(told.parts) == ["gateway-0"]
        assert logging.getLogger("router").level == logging.INFO
        told = await stub.SetLogLevel(pb.SetLogLevelRequest(level="error", part="frontend"))
        assert list(told.parts) == ["frontend"]
        assert logging.getLogger("router").level == logging.ERROR
        assert controller.levels == [("", "info"), ("gateway-0", "debug"), ("frontend", "error")]
        with pytest.raises(grpc.aio.AioRpcError, match="level: must be one of debug") as refused:
            await stub.SetLogLevel(pb.SetLogLevelRequest(level="loud"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("key", "body", "status", "said"),
    [
        ("boss", {"level": "info"}, 200, "controller"),
        ("boss", {"level": "info", "part": "gateway-0"}, 200, "gateway-0"),
        ("boss", {"level": "loud"}, 400, "level"),
        ("boss", {}, 400, "level"),
        ("boss", {"level": 7}, 400, "level"),
        ("user", {"level": "info"}, 403, "admin key"),
        ("", {"level": "info"}, 401, "key"),
    ],
)
async def test_http_takes_it_of_admins_alone(key, body, status, said):
    frontend = make_frontend(FakeGateway(), keys=ApiKeys(["user"], ["boss"]))
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with http_served(frontend, FakeController()) as url, httpx.AsyncClient() as client:
        answer = await client.put(url + PATH, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert said in answer.text
