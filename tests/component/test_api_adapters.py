"""Adapters over HTTP and gRPC: loaded, listed, named as the model, unloaded."""

from contextlib import asynccontextmanager

import grpc
import httpx
import pytest

from galerne.adapters import AdapterInfo
from galerne.errors import ConfigError, InvalidRequestError
from galerne.v1 import cluster_pb2 as pb
from galerne.v1 import cluster_pb2_grpc, inference_pb2_grpc
from galerne.v1 import inference_pb2 as inference
from helpers.api_servers import cluster_served, grpc_channel, http_served, make_frontend
from helpers.explained import FakeController
from helpers.fake_gateway import Answer, FakeGateway
from router.api.keys import ApiKeys

SQL = AdapterInfo(name="sql", directory="sql", id="ab" * 8, rank=4, num_bytes=9)


class AdaptedGateway(FakeGateway):
    """Knows the controller's adapters as soon as it is told to look."""

    def __init__(self, controller, *answers):
        super().__init__(*answers)
        self._controller = controller

    async def refresh(self):
        self.adapters = tuple(self._controller.loaded)


@asynccontextmanager
async def served(**options):
    controller = FakeController()
    gateway = AdaptedGateway(controller, Answer([300, 301]))
    frontend = make_frontend(gateway, **options)
    async with http_served(frontend, controller) as url, httpx.AsyncClient(base_url=url) as client:
        yield client, gateway, controller


async def test_an_adapter_is_loaded_listed_asked_for_and_unloaded():
    async with served() as (client, gateway, controller):
        loaded = await client.post("/v1/load_lora_adapter", json={"lora_name": "sql"})
        assert (loaded.status_code, loaded.text) == (
            200,
            "Success: LoRA adapter 'sql' added successfully.",
        )
        models = (await client.get("/v1/models")).json()["data"]
        assert [(m["id"], m.get("parent")) for m in models] == [("fake", None), ("sql", "fake")]
        assert (await client.get("/v1/models/sql")).json()["root"] == "sql"
        body = {"model": "sql", "prompt": "x", "max_tokens": 4}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert answer["model"] == "sql"
        assert gateway.runs[-1].request.adapter == "ab" * 8
        await client.post("/v1/completions", json=body | {"model": "fake"})
        assert gateway.runs[-1].request.adapter == ""
        gone = await client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
        assert gone.text == "Success: LoRA adapter 'sql' removed successfully."
        assert controller.deadline_s == 30.0
        refused = await client.post("/v1/completions", json=body)
        assert refused.status_code == 404
        assert "'sql' is not served here" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "refusal", "status", "said"),
    [
        ({}, None, 400, "lora_name"),
        ({"lora_name": 5}, None, 400, "lora_name"),
        (
            {"lora_name": "x", "lora_path": "../x"},
            InvalidRequestError("lora_path", "must be plain"),
            400,
            "lora_path: must be plain",
        ),
        ({"lora_name": "x"}, ConfigError("adapters", None, "start with"), 400, "start with"),
    ],
)
async def test_a_refused_load_says_why(body, refusal, status, said):
    async with served() as (client, _, controller):
        controller.refusal = refusal
        answer = await client.post("/v1/load_lora_adapter", json=body)
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", ["load", "unload"])
async def test_only_an_admin_key_loads_and_unloads_and_others_are_told_nothing_else(route):
    keys = ApiKeys(["client name=ci"], ["boss name=ops"])
    path, body = f"/v1/{route}_lora_adapter", {"lora_name": "sql"}
    async with served(keys=keys) as (client, _, controller):
        await controller.load_adapter("sql", "sql")
        before = controller.loaded

        async def post(key, **content):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            answer = await client.post(path, headers=headers, **content)
            return answer.status_code, answer.text

        for key, status in ((None, 401), ("guessed", 401), ("client", 403)):
            for content in ({"json": body}, {"content": b"no json"}, {"json": {}}):
                found, said = await post(key, **content)
                assert found == status
                assert ("needs an admin key" in said) == (status == 403)
                assert "lora_name" not in said
        assert controller.loaded is before
        assert (await post("boss", json=body))[0] == 200
        assert controller.loaded != before


async def test_grpc_loads_lists_and_unloads():
    controller = FakeController()
    gateway = AdaptedGateway(controller, Answer([300]))
    frontend = make_frontend(gateway)
    async with (
        cluster_served(controller, frontend) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        grpc_channel(frontend) as public,
    ):
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        info = await stub.LoadAdapter(pb.LoadLoraRequest(name="sql"))
        assert (info.name, info.id, info.rank) == ("sql", SQL.id, 4)
        listed = await stub.ListAdapters(pb.ListAdaptersRequest())
        assert list(listed.adapters) == [info]
        clients = inference_pb2_grpc.InferenceServiceStub(public)
        model = await clients.GetModelInfo(inference.GetModelInfoRequest())
        assert [a.name for a in model.adapters] == ["sql"]
        call = inference.GenerateRequest(text="x", model="sql")
        await clients.GenerateOnce(call)
        assert gateway.runs[-1].request.adapter == SQL.id
        with pytest.raises(grpc.aio.AioRpcError, match="deadline_s"):
            await stub.UnloadAdapter(pb.UnloadLoraRequest(name="sql", deadline_s=-1))
        await stub.UnloadAdapter(pb.UnloadLoraRequest(name="sql", deadline_s=2.0))
        assert controller.deadline_s == 2.0
        assert not (await stub.ListAdapters(pb.ListAdaptersRequest())).adapters
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await clients.GenerateOnce(call)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
