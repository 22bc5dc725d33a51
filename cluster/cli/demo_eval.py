"""``galerne demo eval``: the demo model's test through a running server's public API."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from cluster.cli.client import connect
from cluster.cli.serve import announce, start_with_progress
from cluster.config import load_config
from cluster.demo.evaluation.asking import ask_all
from cluster.demo.evaluation.exam import questions
from cluster.demo.evaluation.grading import by_language, grade, table
from cluster.demo.evaluation.plots import plot_heat, plot_imbalance, plot_load
from cluster.demo.evaluation.report import (
    load_table,
    score_markdown,
    score_table,
    write_answers,
)
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
        shown = track(replies, "asking", len(documents), console=console)
        graded = [grade(document, reply) for document, reply in zip(documents, shown, strict=True)]
    write_answers(graded, out / "answers.jsonl")
    lines = table(graded)
    (out / "scores.md").write_text(score_markdown(lines), encoding="utf-8")
    console.print(score_table(f"{info.name} ({info.numerics_profile}), seed {seed}", lines))
    scores = by_language(graded).items()
    told = ", ".join(f"{name} {score.share:.0%}" for name, score in scores)
    console.print(f"facts and languages by language: {told}", highlight=False)
    if http:
        _routing(console, http, info, shards, out)


def _routing(console: Console, http: str, info: pb.ModelInfo, shards: int, out: Path) -> None:
    """Plots of the load since the server's start, and a line per layer."""
    load = read_load(f"http://{http}/metrics", info.num_layers, info.num_experts)
    if not load.sum(axis=1).all():
        console.print(f"no expert metrics at http://{http}/metrics: no routing plots")
        return
    console.print(load_table(describe(load, shards), shards))
    for plot in (plot_load, plot_heat, plot_imbalance):
        for path in plot(load, out):
            console.print(str(path), style="dim")
