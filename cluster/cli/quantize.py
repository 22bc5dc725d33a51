"""``galerne quantize``: a checkpoint in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def quantize(
    source: Annotated[Path, typer.Argument(help="checkpoint directory")],
    target: Annotated[Path, typer.Argument(help="directory to make")],
    experts: Annotated[str, typer.Option(help="routed experts: bf16, int8 or int4")] = "int4",
    dense: Annotated[
        str, typer.Option(help="projections, shared experts and head: the same choice")
    ] = "int8",
) -> None:
    """Write a checkpoint whose weights take fewer bits; prints its experts' error by layer."""
    from cluster.cli.inspect import print_layer_errors
    from galerne.errors import ConfigError
    from shards.checkpoint.inspect import describe, render
    from shards.checkpoint.open import open_checkpoint
    from shards.checkpoint.quantised import write_quantised
    from shards.kernels.formats import FORMATS, WeightFormat

    for name, value in (("experts", experts), ("dense", dense)):
        if value not in FORMATS:
            raise ConfigError(name, value, f"must be one of {', '.join(FORMATS)}")
    console = Console()
    checkpoint = open_checkpoint(source)
    columns = (TextColumn("experts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("experts")
        try:
            write_quantised(
                *(checkpoint, source, target, FORMATS[experts], FORMATS[dense]),
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        except FileExistsError as error:
            raise ConfigError("target", target, f"holds a checkpoint already: {error}") from error
        except ValueError as error:  # what the native layout cannot say, or no weight can be
            raise ConfigError("source", source, str(error)) from error
    if experts != WeightFormat.BF16.label:
        print_layer_errors(console, checkpoint, FORMATS[experts])
    for line in render(describe(open_checkpoint(target), target)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
