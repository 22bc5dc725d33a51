"""A gRPC client that counts what it has had, so that it can come back for the rest."""

import grpc

from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc as pb_grpc

HELLO = pb.ChatMessage(role="user", content=[pb.ContentPart(text="Hello")])
TOOL = pb.Tool(name="f", parameters_json_schema='{"type": "object"}')


def request_of(api, **options):
    """A resumable request."""
    if api == "generate":
        return pb.GenerateRequest(**({"text": "Once", "resumable": True} | options))
    chat = {"messages": [HELLO], "tools": [TOOL], "reasoning_effort": "high", "resumable": True}
    return pb.ChatRequest(**(chat | options))


def open_call(channel, request, key=None):
    """The call that a request goes with."""
    stub = pb_grpc.InferenceServiceStub(channel)
    method = stub.Generate if isinstance(request, pb.GenerateRequest) else stub.Chat
    return method(request, metadata=_metadata(key))


def resume_call(channel, api, request_id, points=(), key=None):
    stub = pb_grpc.InferenceServiceStub(channel)
    method = stub.ResumeGenerate if api == "generate" else stub.ResumeChat
    request = pb.ResumeRequest(request_id=request_id, points=points)
    return method(request, metadata=_metadata(key))


async def resume(channel, api, request_id, points=(), key=None):
    """All that a client gets who comes back."""
    return [event async for event in resume_call(channel, api, request_id, points, key)]


async def read(call, num_events):
    return [await call.read() for _ in range(num_events)]


async def read_rest(call):
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


def points_of(events, num_choices, *, counts_events=True):
    """How far a client got with each choice."""
    places = [[0, 0] for _ in range(num_choices)]
    for event in events:
        kind = event.WhichOneof("event")
        if kind not in ("tokens", "delta", "finished"):
            continue
        part = getattr(event, kind)
        place = places[part.choice]
        if kind == "tokens" and part.token_ids:
            place[:] = part.offset + len(part.token_ids), 0
        else:
            place[1] += 1
    return [
        pb.ResumePoint(offset=offset, events=count if counts_events else None)
        for offset, count in places
    ]


def _metadata(key):
    return (("authorization", f"Bearer {key}"),) if key else ()
