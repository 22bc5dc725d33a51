"""gRPC errors carry ``google.rpc.Status``, and every call its id."""

from base64 import b64encode
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from galerne.errors import InvalidRequestError, OverloadedError
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc
from helpers.api_servers import grpc_channel, ids_of, make_frontend
from helpers.fake_gateway import Answer, FakeGateway
from router.api.grpc_status import ending_of
from router.api.keys import ApiKeys

ID = (("x-request-id", "trace-7"),)


async def refusal(frontend, request, metadata=ID):
    """The status of a refused call, its details by type, and its trailers."""
    async with grpc_channel(frontend) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GenerateOnce(request, metadata=metadata)
    # grpc_status reads a call; an error of grpc.aio has the same three methods.
    status = rpc_status.from_call(caught.value)
    details = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        details[kind.__name__] = kind()
        assert packed.Unpack(details[kind.__name__])
    return status, details, dict(caught.value.trailing_metadata())


async def test_bad_input_names_its_field_in_the_details():
    bad = pb.GenerateRequest(text="a", sampling=pb.SamplingParams(top_p=7))
    status, details, trailers = await refusal(make_frontend(FakeGateway()), bad)
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    [violation] = details["BadRequest"].field_violations
    assert (violation.field, "must be in (0, 1]" in violation.description) == ("top_p", True)
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    assert details["ErrorInfo"].domain == "galerne"
    assert details["RequestInfo"].request_id == trailers["x-request-id"] == "trace-7"


async def test_overload_says_when_to_come_back():
    gateway = FakeGateway()
    gateway.refusal = OverloadedError("queue", 8, 1.5)
    _, details, trailers = await refusal(make_frontend(gateway), pb.GenerateRequest(text="a"))
    assert details["RetryInfo"].retry_delay.seconds == 2
    assert trailers["retry-after"] == "2"
    assert "BadRequest" not in details


async def test_who_has_no_key_gets_details_too():
    frontend = make_frontend(FakeGateway(), keys=ApiKeys(["sesame"]))
    status, details, _ = await refusal(frontend, pb.GenerateRequest(text="a"))
    assert status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert details["ErrorInfo"].reason == "UNAUTHENTICATED"


async def test_a_long_name_of_a_field_fits_into_the_trailers():
    model = "é" * 100_000
    status, details, _ = await refusal(
        make_frontend(FakeGateway()), pb.GenerateRequest(text="a", model=model)
    )
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert details["BadRequest"].field_violations[0].field == "model"


@pytest.mark.parametrize("character", ["x", "é", "\N{GRINNING FACE}"])
def test_a_long_problem_fits_into_the_trailers_whatever_its_characters(character):
    ending = ending_of(InvalidRequestError("a.field", character * 5000), ID)
    size = len(quote(ending.text))  # what is not ASCII goes percent-encoded
    for key, value in ending.trailers:
        size += len(key) + 32  # as RFC 9113, 10.5.1 counts
        size += len(b64encode(value)) if isinstance(value, bytes) else len(value)
    assert 800 < size < 8192 - 256  # and there are status and content type
    assert ending.text.startswith(f"a.field: {character * 100}")
    assert not ending.text.endswith("\N{REPLACEMENT CHARACTER}")


async def test_an_id_comes_back_with_every_call_and_one_is_drawn_where_none_was_sent():
    gateway = FakeGateway(Answer(ids_of("ok")))
    async with grpc_channel(make_frontend(gateway)) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        for metadata in (ID, (), (("x-request-id", "x" * 200),)):
            calls = (
                stub.Generate(pb.GenerateRequest(text="a"), metadata=metadata),
                stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=metadata),
                stub.Tokenize(pb.TokenizeRequest(text="a"), metadata=metadata),
            )
            for call in calls:
                if hasattr(call, "read"):
                    assert [event async for event in call]
                else:
                    await call
                given = dict(await call.trailing_metadata())["x-request-id"]
                assert given == "trace-7" if metadata is ID else len(given) == 32
