"""``python -m cluster.demo.training vision|start|text|curve|export``: the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.demo.training.curve import plot_curve
from cluster.demo.training.eagle import export_eagle, train_eagle
from cluster.demo.training.export import export
from cluster.demo.training.start import start_from
from cluster.demo.training.text_lesson import Settings, train_text
from cluster.demo.training.vision_lesson import train_tower
from cluster.demo.training.workers import run_workers

app = typer.Typer(no_args_is_help=True)


Out = Annotated[Path, typer.Option(help="directory of all that a run writes")]
Seed = Annotated[int, typer.Option(help="the same seed, steps and workers give the same weights")]
Workers = Annotated[int, typer.Option(min=1, help="processes, a core each")]


@app.callback()
def _stages() -> None:
    """Stages of making the demo model."""


@app.command()
def vision(out: Out, steps: int = 1500, seed: Seed = 1, workers: Workers = 2) -> None:
    """Teach the vision tower alone; writes tower.pt and tower.csv."""
    out.mkdir(parents=True, exist_ok=True)
    run_workers(workers, train_tower, seed, steps, out / "tower.pt")


@app.command()
def start(
    out: Out, checkpoint: Annotated[Path, typer.Argument(help="an exported demo model")]
) -> None:
    """Go on from a checkpoint instead of the vision stage; give the text stage another seed."""
    start_from(checkpoint, out)


@app.command()
def text(
    out: Out,
    steps: int = 7000,
    seed: Seed = 1,
    workers: Workers = 2,
    tokens: Annotated[int, typer.Option(help="of each worker in each step")] = 3000,
    peak_rate: float = 3e-3,
    until: Annotated[int | None, typer.Option(help="stop, to be resumed, after this step")] = None,
) -> None:
    """Teach the text model, from tower.pt; resumes from text.pt. Writes text.csv, exact.jsonl."""
    settings = Settings(seed, steps, tokens, peak_rate, out, until or steps)
    run_workers(workers, train_text, settings)


@app.command()
def curve(out: Out, target: Annotated[Path, typer.Argument(help="PNG or SVG to write")]) -> None:
    """Draw the loss and the exact answers of a run."""
    plot_curve(out, target)


@app.command()
def eagle(
    out: Out,
    checkpoint: Annotated[Path, typer.Argument(help="the exported demo model")],
    steps: int = 1500,
    seed: Seed = 1,
    tokens: Annotated[int, typer.Option(help="in each step")] = 3000,
    peak_rate: float = 2e-3,
    until: Annotated[int | None, typer.Option(help="stop, to be resumed, after this step")] = None,
) -> None:
    """Teach the Eagle head of a demo model, one process; resumes from eagle.pt."""
    train_eagle(
        checkpoint,
        out / "eagle.pt",
        seed=seed,
        steps=steps,
        tokens=tokens,
        rate=peak_rate,
        until=until or steps,
    )


@app.command("export-eagle")
def export_eagle_command(
    out: Out,
    target: Annotated[Path, typer.Argument(help="directory to write: eagle/ of a checkpoint")],
) -> None:
    """Write the trained Eagle head in the native layout, fp8."""
    export_eagle(out / "eagle.pt", target)


@app.command("export")
def export_command(
    out: Out,
    target: Annotated[Path, typer.Argument(help="directory of the checkpoint to write")],
    bf16: Annotated[bool, typer.Option("--bf16", help="not fp8")] = False,
) -> None:
    """Write the trained weights as a checkpoint in the native layout."""
    export(out, target, is_fp8=not bf16)


if __name__ == "__main__":
    app()
