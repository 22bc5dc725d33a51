"""``galerne replay``: recorded gateways once more, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from galerne.logs import LogSettings, set_up
from shards.cores import available_cores

if TYPE_CHECKING:
    from router.gateway.record_file import Record
    from router.gateway.replay import ReplayResult


def replay(
    directory: Annotated[Path, typer.Argument(help="what serve --record was given, or a part")],
    model: Annotated[
        Path | None, typer.Option(help="checkpoint directory; unset: where it lay then")
    ] = None,
    adapters: Annotated[
        Path | None, typer.Option(help="directory of adapters; unset: where it lay then")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of the model; unset: one a core")
    ] = None,
) -> None:
    """Run what was recorded again: every token and decision of the scheduler is compared.

    Needs no cluster, but room for all weights in this process. Exit code 1: something differs, or
    a record is incomplete.
    """
    from router.gateway.record_file import find_records

    set_up(LogSettings(level="error"), "replay")  # steps that fail again are no news
    num_threads = threads or available_cores()
    console = Console()
    is_good = True
    for record in find_records(directory):
        result = _replay_with_progress(record, model, adapters, num_threads)
        is_good = is_good and result.is_good
        name = f"{record.header.gateway} {record.header.incarnation}"
        text = f"{name}: {summary(result)}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if not is_good:
        raise typer.Exit(1)


def _replay_with_progress(
    record: Record, model: Path | None, adapters: Path | None, num_threads: int
) -> ReplayResult:
    from router.gateway.replay import replay as replay_record

    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        name = record.header.gateway
        task = bars.add_task(name)
        return replay_record(
            record,
            num_threads=num_threads,
            checkpoint=model,
            adapters=adapters,
            on_progress=lambda what, done, of: bars.update(
                task, description=f"{name} {what} {done}/{of}"
            ),
            on_step=lambda result: bars.update(
                task, description=f"{name} step {result.num_steps}, {result.num_tokens} tokens"
            ),
        )


def summary(result: ReplayResult) -> str:
    """What was repeated, in one line."""
    from router.gateway.replay import Ending

    counts = (
        f"{result.num_requests} requests, {result.num_steps} steps "
        f"({result.num_failed_steps} failed), {result.num_tokens} tokens, "
        f"{result.num_faults} faults, {result.num_epochs} epochs"
    )
    if result.difference is not None:
        return f"{counts}: DIFFERENT at {result.difference}"
    if result.ending is Ending.INCOMPLETE:
        return f"{counts}: equal up to where the record is incomplete: {result.note}"
    is_cut = result.ending is Ending.CUT_OFF
    return f"{counts}: equal" + (" (its gateway did not end in order)" if is_cut else "")
