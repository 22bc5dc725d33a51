"""``galerne chat``: talk to a running server over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.cli.client import DEFAULT_TARGET, ApiKey, Target, connect, metadata
from galerne.errors import ConfigError
from galerne.v1 import inference_pb2 as pb


def chat(
    prompt: Annotated[str | None, typer.Argument(help="unset: a conversation")] = None,
    target: Target = DEFAULT_TARGET,
    effort: Annotated[str, typer.Option(help="reasoning effort: none or high")] = "none",
    image: Annotated[
        list[Path] | None,
        typer.Option(help="picture to send along", exists=True, dir_okay=False),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.7,
    max_tokens: Annotated[int | None, typer.Option(help="most tokens of an answer")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the draw")] = None,
    api_key: ApiKey = "",
) -> None:
    """Ask one question, or talk until end of input."""
    console = Console()
    sampling = pb.SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    images = [pb.ContentPart(image=path.read_bytes()) for path in image or ()]
    messages: list[pb.ChatMessage] = []
    with connect(target) as stub:
        while True:
            question = prompt if prompt is not None else _ask(console)
            if question is None:
                return
            parts = [*images, pb.ContentPart(text=question)]
            images = []
            messages.append(pb.ChatMessage(role="user", content=parts))
            request = pb.ChatRequest(messages=messages, reasoning_effort=effort, sampling=sampling)
            answer = _answer(console, stub.Chat(request, metadata=metadata(api_key)))
            if answer:
                content = [pb.ContentPart(text=answer)]
                messages.append(pb.ChatMessage(role="assistant", content=content))
            else:  # a call of a tool that nobody here can run, or nothing at all
                messages.pop()
            if prompt is not None:
                return


def _ask(console: Console) -> str | None:
    try:
        return console.input("[bold]you>[/] ")
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(console: Console, events: Any) -> str:  # noqa: ANN401 - a grpc call
    """Print an answer as it comes; its content."""
    content = []
    for event in events:
        delta = event.delta
        if delta.reasoning:
            console.print(delta.reasoning, style="dim", end="", markup=False, highlight=False)
        elif delta.content:
            content.append(delta.content)
            console.print(delta.content, end="", markup=False, highlight=False)
        elif delta.HasField("tool_call"):
            console.print(f"\n[tool call] {delta.tool_call.name} ", end="", markup=False)
        elif delta.HasField("tool_arguments"):
            console.print(delta.tool_arguments.json_delta, end="", markup=False, highlight=False)
        elif event.finished.error:
            raise ConfigError("server", "the answer broke off", event.finished.error)
        elif event.HasField("usage"):
            usage = event.usage
            counts = f"{usage.prompt_tokens} prompt, {usage.completion_tokens} new tokens"
            console.print(f"\n[dim]{counts}[/]")
    return "".join(content)
