import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from galerne.errors import ConfigError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import embedded, grpc_channel, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.grpc_server import build_grpc_server
from router.api.keys import ApiKeys
from router.engine.gateway_port import GatewayLoad

HEALTH = health_pb2.HealthCheckResponse


async def generate(channel):
    stub = pb_grpc.InferenceServiceStub(channel)
    return [event async for event in stub.Generate(pb.GenerateRequest(text="Once"))]


async def test_text_and_ids_are_turned_into_each_other():
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        ids = (await stub.Tokenize(pb.TokenizeRequest(text="Grüße"))).token_ids
        bare = (await stub.Tokenize(pb.TokenizeRequest(text="Grüße", add_bos=False))).token_ids
        text = await stub.Detokenize(pb.DetokenizeRequest(token_ids=ids))
        kept = await stub.Detokenize(pb.DetokenizeRequest(token_ids=ids, keep_special=True))
        with pytest.raises(grpc.aio.AioRpcError, match=r"token_ids\[1\]: "):
            await stub.Detokenize(pb.DetokenizeRequest(token_ids=[5, -1]))
    assert list(ids) == [embedded().bos_id, *bare]
    assert (text.text, kept.text) == ("Grüße", "<s>Grüße")


async def test_facts_are_those_of_the_gateway():
    gateway = FakeGateway()
    gateway.load_now = GatewayLoad(running=3, kv_blocks=2**40)
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        model = await stub.GetModelInfo(pb.GetModelInfoRequest())
        server = await stub.GetServerInfo(pb.GetServerInfoRequest())
        load = await stub.GetLoad(pb.GetLoadRequest())
    assert (model.name, model.max_model_len, model.num_experts) == ("fake", 4096, 8)
    assert list(model.reasoning_efforts) == ["none", "high"]
    assert (server.mode, server.epoch, list(server.gateways)) == ("latency", 1, ["gateway-0"])
    assert (load.running, load.kv_blocks) == (3, 2**40)


@pytest.mark.parametrize("service", ["", "galerne.v1.InferenceService"])
async def test_watch_tells_the_status_at_once_and_every_change(service):
    gateway = FakeGateway()
    gateway.unready = "starting"
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        watches = [stub.Watch(request) for _ in range(2)]
        async with asyncio.timeout(60):
            for unready, status in (
                ("starting", HEALTH.NOT_SERVING),
                (None, HEALTH.SERVING),
                ("draining", HEALTH.NOT_SERVING),
            ):
                gateway.unready = unready
                assert [(await watch.read()).status for watch in watches] == [status] * 2
        assert (await stub.Check(request)).status == HEALTH.NOT_SERVING


async def test_unknown_service_is_watched_as_unknown_and_checked_as_not_found():
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="other")
        watch = stub.Watch(request)
        assert (await watch.read()).status == HEALTH.SERVICE_UNKNOWN
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request)
        watch.cancel()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services():
    async with grpc_channel(make_frontend(FakeGateway())) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        response = await call.read()
        await call.done_writing()
    names = {service.name for service in response.list_services_response.service}
    assert {"galerne.v1.InferenceService", "grpc.health.v1.Health"} <= names


async def test_key_is_asked_for_but_not_by_health():
    frontend = make_frontend(FakeGateway(Answer(ids_of("ok"))), keys=ApiKeys(["sesame"]))
    async with grpc_channel(frontend) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "sesame"),)):
            for call in (
                stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=metadata),
                stub.Generate(pb.GenerateRequest(text="a"), metadata=metadata).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        right = (("authorization", "Bearer sesame"),)
        assert (await stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=right)).name == "fake"
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == HEALTH.SERVING


async def test_drain_refuses_new_requests_and_waits_for_the_running():
    gateway = FakeGateway()
    frontend = make_frontend(gateway)
    async with grpc_channel(frontend) as channel:
        running = asyncio.create_task(generate(channel))
        run = await gateway.next_run()
        draining = asyncio.create_task(frontend.drain())
        await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(channel)
        assert not draining.done()
        run.end()
        assert (await running)[-1].HasField("usage")
        await asyncio.wait_for(draining, 60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await frontend.unready_reason() == "draining"


async def test_address_in_use_is_refused_by_name():
    built = build_grpc_server(make_frontend(FakeGateway()), "127.0.0.1:0")
    await built.server.start()
    try:
        with pytest.raises(ConfigError, match=r"grpc\.address"):
            build_grpc_server(make_frontend(FakeGateway()), f"127.0.0.1:{built.port}")
    finally:
        await built.server.stop(None)
