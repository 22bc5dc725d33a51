"""``galerne batch``: a file of requests, answered into another."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.batch.lines import check_requests, read_done, read_requests
from cluster.batch.run import BatchSettings, run_batch
from cluster.cli.client import ApiKey
from galerne.errors import ConfigError

_DEFAULTS = BatchSettings(url="http://127.0.0.1:8000")


def batch(
    source: Annotated[
        Path, typer.Argument(help="requests in OpenAI's batch format", exists=True, dir_okay=False)
    ],
    answers: Annotated[Path, typer.Argument(help="answers; those that are there are kept")],
    server: Annotated[str, typer.Option(help="HTTP address of a running server")] = _DEFAULTS.url,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, help="requests at a time")
    ] = _DEFAULTS.concurrency,
    timeout_s: Annotated[
        float, typer.Option(min=0.001, help="seconds that one request may take")
    ] = _DEFAULTS.timeout_s,
    patience_s: Annotated[
        float, typer.Option(min=0, help="seconds that the server may be away or full")
    ] = _DEFAULTS.patience_s,
    api_key: ApiKey = "",
) -> None:
    """Answer a file of requests; the same command goes on after an interruption.

    Every request gets one line, also one that the server refuses: its status and error.
    """
    settings = BatchSettings(
        url=server,
        api_key=api_key,
        concurrency=concurrency,
        timeout_s=timeout_s,
        patience_s=patience_s,
    )
    wanted = check_requests(source)
    console = Console(stderr=True, highlight=False)
    with _alone(answers) as file:
        done = read_done(answers, file, wanted)
        num_refused = _run(source, file, done, len(wanted), settings, console)
    told = f", {num_refused} of them refused or failed" if num_refused else ""
    console.print(f"{len(wanted) - len(done)} answered{told}, {len(done)} were there already")


def _run(
    source: Path,
    file: BinaryIO,
    done: set[str],
    num_all: int,
    settings: BatchSettings,
    console: Console,
) -> int:
    """Ask what is not done; how many answers are no success."""
    num_refused = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("requests", total=num_all, completed=len(done))

        def on_answer(line: bytes, status: int) -> None:
            nonlocal num_refused
            file.write(line)
            file.flush()  # a kill tears the last line at most
            num_refused += status != 200
            bars.advance(task)

        asyncio.run(run_batch(read_requests(source, done), settings, on_answer))
    return num_refused


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file of answers, while no other run writes it.

    Raises:
        ConfigError: Another does, or it cannot be opened.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ConfigError("answers", path, error.strerror or str(error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError("answers", path, "another run writes it") from None
        yield file
