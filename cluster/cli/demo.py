"""``galerne demo``: a cluster, an answer, a shard killed, the same answer."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from cluster.cli.client import connect
from cluster.cli.serve import announce, start_with_progress
from cluster.config import load_config
from cluster.server import Server
from cluster.shutdown import Shutdown
from galerne.v1 import inference_pb2 as pb

PROMPT = "Name a river, and tell me where it ends."
KILL_AFTER_TOKENS = 12
CALL_TIMEOUT_S = 120.0


class Answer(NamedTuple):
    """What a call gave, and the longest wait between two tokens."""

    token_ids: list[int]
    pause_s: float


def demo(
    shards: Annotated[int, typer.Option(help="expert shards")] = 4,
    tokens: Annotated[int, typer.Option(min=24, help="tokens of each answer")] = 48,
) -> None:
    """Start 1 gateway and 4 shards, answer, kill a shard with SIGKILL, answer again; clean up."""
    logging.basicConfig(level=logging.ERROR)
    console = Console()
    flags = {"shards": shards, "transport": "grpc", "http_port": 0, "grpc_port": 0, "drain_s": 2.0}
    shutdown = Shutdown()
    shutdown.install()
    with Server(load_config(None, flags), shutdown) as server:
        started = time.monotonic()
        start_with_progress(server, console)
        announce(server, console)
        console.print(f"started in {time.monotonic() - started:.1f} s", style="dim")
        is_same = _run(server, console, tokens)
    if not is_same:
        raise typer.Exit(1)


def _run(server: Server, console: Console, num_tokens: int) -> bool:
    assert server.ingress is not None
    assert server.deployment is not None
    with connect(server.ingress.grpc_address) as stub:
        console.print(f"\n[bold]1.[/] Chat over gRPC: {PROMPT}")
        first = _ask(stub, console, num_tokens)
        victim = server.plan.spec.topology.shards[-1] if server.plan is not None else ""
        pid = server.deployment.pids[victim]
        console.print(f"\n[bold]2.[/] The same, and {victim} (pid {pid}) is killed meanwhile:")
        second = _ask(stub, console, num_tokens, kill=pid)
        console.print(f"\n[bold]3.[/] And once more, with {victim} restarted by Ray:")
        third = _ask(stub, console, num_tokens)
        restarted = server.deployment.pids[victim]
    is_same = first.token_ids == second.token_ids == third.token_ids and restarted != pid
    verdict = "[green]identical[/]" if is_same else "[red]NOT identical[/]"
    console.print(
        f"\nThe three answers of {len(first.token_ids)} tokens are {verdict}. Longest wait for a "
        f"token: {first.pause_s:.2f} s, {second.pause_s:.2f} s with the kill, "
        f"{third.pause_s:.2f} s. {victim} lives again as pid {restarted}.",
        highlight=False,
    )
    console.print(
        "The embedded model is random: its words mean nothing, its bits are what is shown.",
        style="dim",
    )
    return is_same


def _ask(stub: Any, console: Console, num_tokens: int, kill: int | None = None) -> Answer:  # noqa: ANN401
    """Stream one answer; send SIGKILL to ``kill`` in the middle of it."""
    request = pb.ChatRequest(
        messages=[pb.ChatMessage(role="user", content=[pb.ContentPart(text=PROMPT)])],
        sampling=pb.SamplingParams(temperature=0.7, seed=7, max_tokens=num_tokens, ignore_eos=True),
    )
    ids: list[int] = []
    pause_s, last = 0.0, time.monotonic()
    for event in stub.Chat(request, timeout=CALL_TIMEOUT_S):
        if event.delta.content:
            console.print(event.delta.content, end="", markup=False, highlight=False, style="cyan")
        if event.HasField("tokens"):
            now = time.monotonic()
            pause_s, last = max(pause_s, now - last) if ids else 0.0, now
            ids += event.tokens.token_ids
            if kill is not None and len(ids) >= KILL_AFTER_TOKENS:
                os.kill(kill, signal.SIGKILL)
                kill = None
    console.print()
    return Answer(ids, pause_s)
