"""``galerne inspect``: what a checkpoint holds, where it would fit, what fewer bits would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from shards.checkpoint.weights import Checkpoint
    from shards.kernels.formats import WeightFormat


def inspect(
    path: Annotated[Path, typer.Argument(help="checkpoint directory")],
    experts: Annotated[
        str, typer.Option(help="int8 or int4: also the error of holding experts so, by layer")
    ] = "",
) -> None:
    """Check a checkpoint and print its config, bytes by part, and what fits on how many shards."""
    from galerne.errors import ConfigError
    from shards.checkpoint.inspect import describe, render
    from shards.checkpoint.open import open_checkpoint
    from shards.kernels.formats import FORMATS, WeightFormat

    if experts and experts not in FORMATS:
        raise ConfigError("experts", experts, f"must be one of {', '.join(FORMATS)}")
    console = Console()
    checkpoint = open_checkpoint(path)
    stored = checkpoint.config.experts_held
    if experts and stored is not WeightFormat.BF16:
        raise ConfigError("experts", experts, f"the checkpoint holds {stored.label} already")
    for line in render(describe(checkpoint, path)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if experts:
        print_layer_errors(console, checkpoint, FORMATS[experts])


def print_layer_errors(console: Console, checkpoint: Checkpoint, held: WeightFormat) -> None:
    """What holding the routed experts so costs, layer by layer."""
    from shards.quantisation_error import layer_errors

    console.print(f"relative error of routed experts held in {held.label}", highlight=False)
    for row in layer_errors(checkpoint, held):
        worst = f"worst expert {row.worst_expert}: {row.worst_error:.2%}"
        console.print(f"  layer {row.layer:3}  {row.error:.2%}  {worst}", highlight=False)
