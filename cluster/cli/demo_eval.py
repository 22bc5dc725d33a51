"""``galerne demo eval``: the demo model's test through a running server's public API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track

from cluster.cli.client import ApiKey, connect, metadata
from cluster.cli.serve import private_server
from cluster.demo.evaluation.asking import ask_all
from cluster.demo.evaluation.exam import questions
from cluster.demo.evaluation.grading import by_language, grade, table
from cluster.demo.evaluation.report import (
    load_table,
    score_markdown,
    score_table,
    write_answers,
)
from cluster.demo.evaluation.routing import describe, read_load
from galerne.errors import ConfigError
from galerne.logs import LogSettings, set_up
from galerne.v1 import inference_pb2 as pb


class Exam(NamedTuple):
    """What is asked of whom, and where the answers go."""

    grpc: str
    http: str  # for the routing; empty: no plots
    api_key: str
    per_task: int
    seed: int
    concurrency: int
    out: Path
    num_shards: int


def demo_eval(
    target: Annotated[str, typer.Option(help="a running server; without it, one starts")] = "",
    http: Annotated[str, typer.Option(help="that server's HTTP address, for routing plots")] = "",
    model: Annotated[Path | None, typer.Option(help="checkpoint of the server to start")] = None,
    shards: Annotated[int, typer.Option(min=1, help="shards of the server to start")] = 4,
    experts: Annotated[str, typer.Option(help="that server's experts: bf16, int8, int4")] = "bf16",
    per_task: Annotated[int, typer.Option(min=1, help="questions per task and effort")] = 40,
    seed: Annotated[int, typer.Option(help="seed of the questions")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="questions under way at once")] = 16,
    out: Annotated[Path, typer.Option(help="directory of answers and plots")] = Path("demo-eval"),
    api_key: ApiKey = "",
) -> None:
    """Ask held-out questions of every task; print the share answered exactly."""
    set_up(LogSettings(level="error"), "eval")
    console = Console(highlight=False)
    exam = Exam(target, http, api_key, per_task, seed, concurrency, out, shards)
    if target:
        _examine(console, exam)
        return
    with private_server(console, model=model, shards=shards, experts=experts) as server:
        assert server.ingress is not None
        ingress = server.ingress
        _examine(console, exam._replace(grpc=ingress.grpc_address, http=ingress.http_address))


def _examine(console: Console, exam: Exam) -> None:
    exam.out.mkdir(parents=True, exist_ok=True)
    documents = list(questions(exam.per_task, exam.seed))
    key = metadata(exam.api_key)
    with connect(exam.grpc) as stub:
        info = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=20, metadata=key)
        if exam.http:
            _read_load(exam, info)  # better refused now than after the exam
        replies = ask_all(stub, documents, exam.concurrency, key)
        shown = track(replies, "asking", len(documents), console=console)
        graded = [grade(document, reply) for document, reply in zip(documents, shown, strict=True)]
    write_answers(graded, exam.out / "answers.jsonl")
    lines = table(graded)
    (exam.out / "scores.md").write_text(score_markdown(lines), encoding="utf-8")
    console.print(score_table(f"{info.name} ({info.numerics_profile}), seed {exam.seed}", lines))
    scores = by_language(graded).items()
    told = ", ".join(f"{name} {score.share:.0%}" for name, score in scores)
    console.print(f"facts and languages by language: {told}")
    if exam.http:
        _show_routing(console, exam, info)
    else:
        console.print("no --http: no routing plots", style="dim")


def _show_routing(console: Console, exam: Exam, info: pb.ModelInfo) -> None:
    """Plots of the load since the server's start, and a line per layer."""
    # Here, because matplotlib takes a second that no other command should wait for.
    from cluster.demo.evaluation.plots import plot_heat, plot_imbalance, plot_load

    load = _read_load(exam, info)
    if not load.sum(axis=1).all():
        console.print(f"no expert metrics at {exam.http}: no routing plots")
        return
    console.print(load_table(describe(load, exam.num_shards), exam.num_shards))
    for plot in (plot_load, plot_heat, plot_imbalance):
        for path in plot(load, exam.out):
            console.print(str(path), style="dim")


def _read_load(exam: Exam, info: pb.ModelInfo) -> npt.NDArray[np.int64]:
    url = exam.http if "://" in exam.http else f"http://{exam.http}"
    try:
        return read_load(url, info.num_layers, info.num_experts, exam.api_key)
    except (OSError, ValueError) as error:
        raise ConfigError("http", exam.http, str(error)) from error
