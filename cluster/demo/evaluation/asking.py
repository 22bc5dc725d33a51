"""A conversation as a gRPC request, and the stream that answers it as one reply."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cluster.demo.lessons.document import Call, Document, Message
from cluster.demo.lessons.scene import png
from galerne.v1 import inference_pb2 as pb

MAX_TOKENS = 400  # three times the longest known answer
CALL_TIMEOUT_S = 300.0
Metadata = Sequence[tuple[str, str]]  # of every call: an API key


class Reply(NamedTuple):
    """What a server answered."""

    text: str
    thinking: str
    calls: tuple[Call, ...]
    has_ended: bool  # by itself, not by max_tokens
    token_ids: tuple[int, ...]
    longest_wait_s: float  # between two tokens


def ask_all(
    stub: Any,  # noqa: ANN401 - a generated stub
    documents: Sequence[Document],
    concurrency: int,
    metadata: Metadata = (),
) -> Iterator[Reply]:
    """Replies in the order of the documents, ``concurrency`` of them under way at once.

    Raises:
        grpc.RpcError: The server refused or broke off.
    """
    with ThreadPoolExecutor(concurrency) as pool:
        yield from pool.map(lambda d: ask(stub, d, metadata=metadata), documents)


def ask(
    stub: Any,  # noqa: ANN401 - a generated stub
    document: Document,
    on_event: Callable[[Any, int], None] = lambda event, num_tokens: None,
    metadata: Metadata = (),
) -> Reply:
    """Greedy answer to all messages but the last.

    ``on_event`` sees every event of the stream and how many tokens have come with it.

    Raises:
        grpc.RpcError: The server refused or broke off.
    """
    text, thinking, has_ended = "", "", False
    names: list[str] = []
    arguments: list[str] = []
    token_ids: list[int] = []
    longest_wait_s, last = 0.0, time.monotonic()
    for event in stub.Chat(request_of(document), timeout=CALL_TIMEOUT_S, metadata=metadata):
        match event.WhichOneof("event"):
            case "delta":
                text += event.delta.content
                thinking += event.delta.reasoning
                if event.delta.HasField("tool_call"):
                    names.append(event.delta.tool_call.name)
                    arguments.append("")
                elif event.delta.HasField("tool_arguments"):
                    arguments[event.delta.tool_arguments.index] += (
                        event.delta.tool_arguments.json_delta
                    )
            case "tokens":
                now = time.monotonic()
                longest_wait_s = max(longest_wait_s, now - last) if token_ids else 0.0
                last = now
                token_ids += event.tokens.token_ids
            case "finished":
                reasons = (pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS)
                has_ended = event.finished.reason in reasons
        on_event(event, len(token_ids))
    calls = tuple(Call(*call) for call in zip(names, map(_parsed, arguments), strict=True))
    return Reply(text, thinking, calls, has_ended, tuple(token_ids), longest_wait_s)


def request_of(document: Document) -> pb.ChatRequest:
    """Everything but the last message, which the model is to write; greedy."""
    return pb.ChatRequest(
        messages=[_message(message) for message in document.messages[:-1]],
        tools=[
            pb.Tool(
                name=tool["function"]["name"],
                description=tool["function"]["description"],
                parameters_json_schema=json.dumps(tool["function"]["parameters"]),
            )
            for tool in document.tools
        ],
        reasoning_effort=document.effort,
        sampling=pb.SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
    )


def _message(message: Message) -> pb.ChatMessage:
    content = []
    if message.picture is not None:
        content.append(pb.ContentPart(image=png(message.picture)))
    if message.thinking:
        content.append(pb.ContentPart(thinking=message.thinking))
    if message.text:
        content.append(pb.ContentPart(text=message.text))
    calls = [
        pb.ToolCall(id=str(i), name=call.name, arguments_json=json.dumps(call.arguments))
        for i, call in enumerate(message.calls)
    ]
    tool_call_id = "0" if message.role == "tool" else ""
    return pb.ChatMessage(
        role=message.role, content=content, tool_calls=calls, tool_call_id=tool_call_id
    )


def _parsed(arguments: str) -> dict[str, Any]:
    """Arguments as the model wrote them; text that is no JSON object stays visible as such."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {"not JSON": arguments}
    return value if isinstance(value, dict) else {"no object": value}
