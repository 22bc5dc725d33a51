"""``galerne demo eval``: the demo model's test through a running server's public API."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.cli.client import connect
from cluster.cli.serve import announce, start_with_progress
from cluster.config import load_config
from cluster.demo.evaluation.asking import ask_all
from cluster.demo.evaluation.exam import EFFORTS, questions
from cluster.demo.evaluation.grading import Graded, Line, by_language, grade, table
from cluster.demo.evaluation.plots import plot_heat, plot_imbalance, plot_load
from cluster.demo.evaluation.routing import describe, read_load
from cluster.server import Server
from cluster.shutdown import Shutdown
from galerne.v1 import inference_pb2 as pb


def demo_eval(
    target: Annotated[str, typer.Option(help="a running server; without it, one starts")] = "",
    http: Annotated[str, typer.Option(help="that server's HTTP address, for routing plots")] = "",
    model: Annotated[Path | None, typer.Option(help="checkpoint of the server to start")] = None,
    shards: Annotated[int, typer.Option(min=1, help="shards of the server to start")] = 4,
    per_task: Annotated[int, typer.Option(min=1, help="questions per task and effort")] = 40,
    seed: Annotated[int, typer.Option(help="seed of the questions")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="questions under way at once")] = 16,
    out: Annotated[Path, typer.Option(help="directory of answers and plots")] = Path("demo-eval"),
) -> None:
    """Ask held-out questions of every task; print the share answered exactly."""
    logging.basicConfig(level=logging.ERROR)
    console = Console()
    if target:
        _evaluate(console, target, http, shards, per_task, seed, concurrency, out)
        return
    flags = {"model": model, "shards": shards, "transport": "grpc", "http_port": 0, "grpc_port": 0}
    shutdown = Shutdown()
    shutdown.install()
    with Server(load_config(None, flags), shutdown) as server:
        start_with_progress(server, console)
        announce(server, console)
        assert server.ingress is not None
        grpc, http = server.ingress.grpc_address, server.ingress.http_address
        _evaluate(console, grpc, http, shards, per_task, seed, concurrency, out)


def _evaluate(
    console: Console,
    target: str,
    http: str,
    shards: int,
    per_task: int,
    seed: int,
    concurrency: int,
    out: Path,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    documents = list(questions(per_task, seed))
    with connect(target) as stub:
        info = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=20)
        replies = ask_all(stub, documents, concurrency)
        graded = [
            grade(document, reply)
            for document, reply in zip(
                documents, track(replies, "asking", len(documents), console=console), strict=True
            )
        ]
    _write(graded, out / "answers.jsonl")
    console.print(_rich_table(f"{info.name} ({info.numerics_profile}), seed {seed}", table(graded)))
    scores = by_language(graded).items()
    told = ", ".join(f"{name} {score.share:.0%}" for name, score in scores)
    console.print(f"facts and languages by language: {told}", highlight=False)
    if http:
        _routing(console, http, info, shards, out)


def _routing(console: Console, http: str, info: Any, shards: int, out: Path) -> None:  # noqa: ANN401
    """Plots and a line per layer; ``info`` is the server's ``ModelInfo``."""
    load = read_load(f"http://{http}/metrics", info.num_layers, info.num_experts)
    if not load.sum(axis=1).all():
        console.print(f"no expert metrics at http://{http}/metrics: no routing plots")
        return
    lines = Table(
        "layer", "unused", "hottest", "its share", "over mean", f"{shards} shards max/mean"
    )
    for layer, found in enumerate(describe(load, shards)):
        lines.add_row(
            str(layer),
            str(found.unused),
            str(found.hottest),
            f"{found.hottest_share:.1%}",
            f"{found.hottest_over_mean:.1f}",
            f"{found.shards_over_mean:.2f}",
        )
    console.print(lines)
    for plot in (plot_load, plot_heat, plot_imbalance):
        for path in plot(load, out):
            console.print(str(path), style="dim")


def _rich_table(title: str, lines: Sequence[Line]) -> Table:
    shown = Table("task", *(f"effort {effort}" for effort in EFFORTS), "questions", title=title)
    for line in lines:
        cells = []
        for effort in EFFORTS:
            mark = {True: " [green]ok[/]", False: " [red]below[/]", None: ""}[line.is_met(effort)]
            bar = f" (bar {line.bars[effort]:.0%})" if effort in line.bars else ""
            cells.append(f"{line.scores[effort].share:.1%}{bar}{mark}")
        name = f"[bold]{line.name}[/]" if line.is_group else f"  {line.name}"
        shown.add_row(name, *cells, str(sum(score.asked for score in line.scores.values())))
    return shown


def _write(graded: Sequence[Graded], path: Path) -> None:
    """Every question with its answer, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for document, reply, is_right in graded:
            wanted = document.messages[-1]
            row = {
                "task": document.task,
                "language": document.language,
                "effort": document.effort,
                "asked": document.messages[-2].text,
                "wanted": wanted.text or [list(call) for call in wanted.calls],
                "text": reply.text,
                "calls": [list(call) for call in reply.calls],
                "thinking": reply.thinking,
                "right": is_right,
                "ended": reply.has_ended,
                "tokens": reply.num_tokens,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
