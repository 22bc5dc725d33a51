"""``galerne trace``: one prompt, and where its time went, in every process that it went through."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cluster.cli.client import ApiKey, connect, metadata
from cluster.cli.serve import private_server
from cluster.cli.trace_tree import SHARD_PARTS, Node, find, read_spans, split_of, trees
from galerne.errors import ConfigError
from galerne.logs import LogSettings, set_up
from galerne.v1 import inference_pb2 as pb

_WAIT_S = 20.0  # processes export once a second
_CALL_TIMEOUT_S = 120.0


def trace(
    prompt: Annotated[str, typer.Argument(help="what is asked")] = "How much is 787 plus 895?",
    shards: Annotated[int, typer.Option(min=1, help="expert shards of the server to start")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="most tokens of the answer")] = 64,
    target: Annotated[str, typer.Option(help="a running server; without it, one starts")] = "",
    spans: Annotated[
        Path | None,
        typer.Option(help="with --target: the directory of its file:// endpoint, on this machine"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="file for the whole trace, as JSON")] = None,
    full: Annotated[bool, typer.Option("--full", help="show all layers, not the slowest")] = False,
    api_key: ApiKey = "",
) -> None:
    """Send one prompt with a trace, print its spans and the time split of its slowest step."""
    set_up(LogSettings(level="error"), "trace")
    console = Console(highlight=False)
    if (spans is not None) is not bool(target):
        raise ConfigError("spans", spans or "", "goes with --target, and --target with it")
    if spans is not None:
        trace_id = _ask(target, prompt, max_tokens, api_key)
        _show(console, spans, trace_id, output, full=full)
        return
    with tempfile.TemporaryDirectory(prefix="galerne-trace-") as directory:
        settings = {"trace_endpoint": f"file://{directory}", "drain_s": 2.0}
        with private_server(console, shards=shards, **settings) as server:
            assert server.ingress is not None
            trace_id = _ask(server.ingress.grpc_address, prompt, max_tokens)
            _show(console, Path(directory), trace_id, output, full=full)


def _ask(target: str, prompt: str, max_tokens: int, api_key: str = "") -> str:
    """Have a prompt answered within a trace that is sampled; the trace's id."""
    trace_id = secrets.token_hex(16)
    traced = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"), *metadata(api_key))
    message = pb.ChatMessage(role="user", content=[pb.ContentPart(text=prompt)])
    sampling = pb.SamplingParams(temperature=0, max_tokens=max_tokens)
    request = pb.ChatRequest(messages=[message], reasoning_effort="none", sampling=sampling)
    with connect(target) as stub:
        for _ in stub.Chat(request, metadata=traced, timeout=_CALL_TIMEOUT_S):
            pass
    return trace_id


def _show(
    console: Console, directory: Path, trace_id: str, output: Path | None, *, full: bool
) -> None:
    roots = _wait_for(directory, trace_id)
    slowest = find(roots, "decode", "step") or find(roots, "prefill", "step")
    console.print(f"trace {trace_id}", style="bold")
    for root in roots:
        _print(console, root, 0, full=full)
    if slowest is not None:
        _print_split(console, slowest)
    if output is not None:
        origin_s = roots[0].start_s
        told: dict[str, Any] = {
            "trace_id": trace_id,
            "spans": [root.as_json(origin_s) for root in roots],
        }
        if slowest is not None:
            split = {name: round(s * 1e3, 3) for name, s in split_of(slowest).items()}
            told["split_of_slowest_step_ms"] = {"step": round(slowest.seconds * 1e3, 3), **split}
        output.write_text(json.dumps(told, indent=1) + "\n")


def _wait_for(directory: Path, trace_id: str) -> Sequence[Node]:
    """Its spans, when frontend and gateway have both written theirs.

    Raises:
        ConfigError: They do not come.
    """
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        roots = trees(read_spans(directory, trace_id))
        if len(roots) == 1 and find(roots, "chat", "serve") is not None:
            return roots
        time.sleep(0.2)
    raise ConfigError("spans", directory, f"the trace {trace_id} has not come in {_WAIT_S:g} s")


def _print(console: Console, node: Node, depth: int, *, full: bool) -> None:
    indent = "  " * depth
    shown = ("galerne.rows", "galerne.steps", "galerne.queue_us", "galerne.service_us")
    known = {name.removeprefix("galerne."): node.attributes.get(name) for name in shown}
    told = [f"{name}={value}" for name, value in known.items() if value is not None]
    error = f"  [red]{escape(node.error)}[/]" if node.error else ""
    console.print(
        f"{indent}{node.name:<{max(34 - len(indent), 1)}} {node.seconds * 1e3:>9.3f} ms  "
        f"[dim]{escape(node.process)}  {escape(' '.join(told))}[/]{error}",
        soft_wrap=True,
    )
    layers = [child for child in node.children if child.name.startswith("layer ")]
    slowest = max(layers, key=lambda layer: layer.seconds, default=None)
    for child in node.children:
        if full or child not in layers or child is slowest:
            _print(console, child, depth + 1, full=full)
    if len(layers) > 1 and not full:
        console.print(f"{indent}  [dim]and {len(layers) - 1} layers more (--full)[/]")


def _print_split(console: Console, step: Node) -> None:
    console.print(f"\nslowest step: {step.seconds * 1e3:.3f} ms", style="bold")
    for name, seconds in split_of(step).items():
        indent = "    of which " if name in SHARD_PARTS else "  "
        label = f"{indent}{name}"
        console.print(f"{label:<34} {seconds * 1e3:>9.3f} ms  {seconds / step.seconds:>6.1%}")
