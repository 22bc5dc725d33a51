"""``galerne demo``: a cluster, some answers, then the same answer while a shard is killed."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cluster.cli.client import connect
from cluster.cli.demo_print import print_answer, print_question
from cluster.cli.serve import private_server
from cluster.demo.evaluation.asking import Reply, ask
from cluster.demo.showcase import KILLED, KILLED_ANSWER, SHOWN
from cluster.server import Server
from galerne.errors import ConfigError
from galerne.logs import LogSettings, set_up

if TYPE_CHECKING:  # imports ray, which must see our environment first
    from cluster.launch import Deployment

KILL_AFTER_TOKENS = 12
RESTART_S = 90.0
DEFAULT_SHARDS = 4


def demo(
    context: typer.Context,
    shards: Annotated[int, typer.Option(min=1, help="expert shards")] = DEFAULT_SHARDS,
) -> None:
    """Start 1 gateway and 4 shards, answer, kill a shard with SIGKILL, answer again; clean up."""
    if context.invoked_subcommand is not None:
        if shards != DEFAULT_SHARDS:
            raise typer.BadParameter(f"write it after {context.invoked_subcommand}: it has its own")
        return
    set_up(LogSettings(level="error"), "demo")
    console = Console(highlight=False)
    with private_server(console, shards=shards, drain_s=2.0) as server:
        assert server.ingress is not None
        with connect(server.ingress.grpc_address) as stub:
            for shown in SHOWN:
                console.print(f"\n[bold]{shown.title}[/]")
                print_question(console, shown.document)
                print_answer(console, ask(stub, shown.document))
            is_same = _kill_and_compare(server, stub, console)
    console.print(
        "This is a small demonstration model, trained on seeded lessons; it is not Mistral's.",
        style="dim",
    )
    if not is_same:
        raise typer.Exit(1)


def _kill_and_compare(server: Server, stub: Any, console: Console) -> bool:  # noqa: ANN401
    """The same question three times; the second time a shard dies in the middle of the answer."""
    assert server.deployment is not None
    assert server.plan is not None
    victim = server.plan.spec.topology.shards[-1]
    pid = server.deployment.pids[victim]
    console.print(f"\n[bold]{KILLED.title}[/]")
    print_question(console, KILLED.document)
    first = _stream(stub, console)
    console.print(f"\n[bold]the same, and {victim} (pid {pid}) is killed meanwhile[/]")
    second = _stream(stub, console, kill=pid)
    restarted = _wait_for_another(server.deployment, victim, pid)
    console.print(f"\n[bold]once more, with {victim} restarted by Ray[/]")
    third = _stream(stub, console)
    is_same = first.token_ids == second.token_ids == third.token_ids and restarted != pid
    verdict = "[green]identical[/]" if is_same else "[red]NOT identical[/]"
    console.print(
        f"\nThe three answers of {len(first.token_ids)} tokens are {verdict}; the sum is "
        f"{KILLED_ANSWER}. Longest wait for a token: {first.longest_wait_s:.2f} s, "
        f"{second.longest_wait_s:.2f} s with the kill, {third.longest_wait_s:.2f} s. {victim} "
        f"lives again as pid {restarted}."
    )
    return is_same


def _wait_for_another(deployment: Deployment, part: str, pid: int) -> int:
    """The process that serves as this part when it is no longer ``pid``; that, if none comes."""
    deadline = time.monotonic() + RESTART_S
    while (found := deployment.pids.get(part, pid)) == pid and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _stream(stub: Any, console: Console, kill: int | None = None) -> Reply:  # noqa: ANN401
    """Print one answer on one line as it comes; send SIGKILL to ``kill`` in the middle of it."""
    was_thinking = False

    def on_event(event: Any, num_tokens: int) -> None:  # noqa: ANN401 - a protobuf message
        nonlocal kill, was_thinking
        thought, said = event.delta.reasoning.replace("\n", "  "), event.delta.content
        console.print(thought, end="", markup=False, style="dim")
        shown = f" => {said}" if said and was_thinking else said
        console.print(shown, end="", markup=False, style="cyan")
        was_thinking = bool(thought) or (was_thinking and not said)
        if kill is not None and num_tokens >= KILL_AFTER_TOKENS:
            os.kill(kill, signal.SIGKILL)
            kill = None

    reply = ask(stub, KILLED.document, on_event)
    console.print()
    if kill is not None:
        raise ConfigError("model", "", f"its answer ended before {KILL_AFTER_TOKENS} tokens")
    return reply
