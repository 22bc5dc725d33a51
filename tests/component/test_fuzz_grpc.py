"""gRPC under hostile messages: a status that blames the input, and nothing kept of it."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from galerne.v1 import inference_pb2 as pb
from helpers.api_servers import ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from helpers.fuzzing import Tally, damaged, fuzzed, messages
from helpers.sure_questions import PICTURE
from router.api.grpc_server import build_grpc_server
from router.api.inputs import ApiLimits

GRACE_S = 0.05
INFERENCE = "/galerne.v1.InferenceService/"
KINDS = {
    f"{INFERENCE}Generate": pb.GenerateRequest,
    f"{INFERENCE}GenerateOnce": pb.GenerateRequest,
    f"{INFERENCE}Chat": pb.ChatRequest,
    f"{INFERENCE}ResumeGenerate": pb.ResumeRequest,
    f"{INFERENCE}ResumeChat": pb.ResumeRequest,
    f"{INFERENCE}Tokenize": pb.TokenizeRequest,
    f"{INFERENCE}Detokenize": pb.DetokenizeRequest,
    f"{INFERENCE}Abort": pb.AbortRequest,
    f"{INFERENCE}GetModelInfo": pb.GetModelInfoRequest,
    f"{INFERENCE}GetServerInfo": pb.GetServerInfoRequest,
    f"{INFERENCE}GetLoad": pb.GetLoadRequest,
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest,
}
BLAMES_THE_INPUT = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # of a tiny timeout_s
}
VALID = [
    pb.GenerateRequest(text="Once", sampling=pb.SamplingParams(max_tokens=3, n=2, stop=["x"])),
    pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 6]), resumable=True, priority=3),
    pb.ChatRequest(
        messages=[
            pb.ChatMessage(
                role="user",
                content=[pb.ContentPart(text="See"), pb.ContentPart(image=PICTURE)],
            )
        ],
        tools=[pb.Tool(name="f", parameters_json_schema='{"type": "object"}')],
        reasoning_effort="high",
        sampling=pb.SamplingParams(logit_bias={5: 1.0}, logprobs=1),
    ),
]


def valid_of(method):
    kind = KINDS[method]
    whole = [message for message in VALID if isinstance(message, kind)] or [kind()]
    return st.sampled_from(whole).map(lambda message: message.SerializeToString())


def any_of(method):
    return messages(KINDS[method]).map(lambda message: message.SerializeToString())


CALLS = st.sampled_from(sorted(KINDS)).flatmap(
    lambda method: st.tuples(
        st.just(method),
        st.one_of(
            any_of(method),
            any_of(method),
            valid_of(method),
            damaged(valid_of(method)),
            st.binary(max_size=20),
        ),
    )
)


@pytest.fixture(scope="module")
def served():
    """A server on loopback, and raw calls of it."""
    gateway = FakeGateway(Answer(ids_of("Good day")), takes_images=True)
    frontend = make_frontend(gateway, limits=ApiLimits(resume_grace_s=GRACE_S))
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(2 * GRACE_S))  # else a stream that is not known may be lost

        async def start():
            built = build_grpc_server(frontend, "127.0.0.1:0")
            await built.server.start()
            return built.server, grpc.aio.insecure_channel(f"127.0.0.1:{built.port}")

        server, channel = runner.run(start())

        async def call(method, data):
            """All calls as streams, so that any method may be asked anything."""
            made = channel.unary_stream(method)(data, timeout=20)
            try:
                return grpc.StatusCode.OK, "", [message async for message in made]
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details(), []

        def ask(method, data):
            return runner.run(call(method, data))

        async def stop():
            await channel.close()
            await server.stop(None)
            await frontend.close()

        yield SimpleNamespace(ask=ask, gateway=gateway, frontend=frontend, runner=runner)
        runner.run(stop())


def test_no_message_fails_hangs_or_leaks(served, record_property):
    tally = Tally("grpc_calls")

    @fuzzed(400)
    @given(CALLS)
    def attack(case):
        method, data = case
        code, details, _ = served.ask(method, data)
        tally.add(code.name)
        if code is grpc.StatusCode.UNKNOWN:  # grpcio's own for bytes that are no message at all
            assert "DecodeError" in details
        else:
            assert code in BLAMES_THE_INPUT, (code, details, method, data)
        served.gateway.runs[:] = [run for run in served.gateway.runs if not run.is_over]

    attack()
    total = tally.report(record_property)
    assert tally.counts["OK"] > total / 20, "the fuzzer hardly gets past the checks"
    served.runner.run(served.frontend.close())
    assert served.frontend.num_running == 0
    assert all(run.is_over for run in served.gateway.runs)
    assert served.ask(f"{INFERENCE}GenerateOnce", VALID[0].SerializeToString())[0].name == "OK"
