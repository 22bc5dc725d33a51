"""``galerne inspect``: what a checkpoint holds and where it would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def inspect(
    path: Annotated[Path, typer.Argument(help="checkpoint directory")],
) -> None:
    """Check a checkpoint and print its config, bytes by part, and what fits on how many shards."""
    from shards.checkpoint.inspect import describe, render
    from shards.checkpoint.open import open_checkpoint

    console = Console()
    for line in render(describe(open_checkpoint(path), path)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
