"""What a training run shows and writes down: a line on the terminal, a row of a CSV file."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cluster.demo.training.workers import Worker

LOG_EVERY = 20  # steps


class Progress:
    """A bar and a CSV of the means of ``LOG_EVERY`` steps; silent in all workers but the first."""

    def __init__(self, worker: Worker, name: str, steps: int, path: Path, done: int = 0) -> None:
        """Writes ``path``, after the rows of the ``done`` steps that were made earlier."""
        self._is_shown = worker.is_first
        self._path = path
        self._since = time.monotonic()
        if worker.is_first:
            self._since -= _keep_rows(path, done)
        self._sums: dict[str, float] = {}
        self._num_added = 0  # fewer than LOG_EVERY in the first row after a resume
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(),
            disable=not worker.is_first,
        )
        self._task = self._bar.add_task(name, total=steps, completed=done, figures="")
        if worker.is_first:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._bar.start()

    def show(self, step: int, **figures: float) -> None:
        """Count a step; ``figures`` are averaged over the steps of a row."""
        if not self._is_shown:
            return
        self._num_added += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if (step + 1) % LOG_EVERY == 0:
            self._write(step + 1)
        self._bar.update(self._task, completed=step + 1)

    def _write(self, steps: int) -> None:
        means = {name: total / self._num_added for name, total in self._sums.items()}
        names = ["step", "seconds", *means]
        is_new = not self._path.exists()
        values = [str(steps), f"{time.monotonic() - self._since:.1f}"]
        values += [f"{value:.5g}" for value in means.values()]
        with self._path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(",".join(names) + "\n")
            file.write(",".join(values) + "\n")
        text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        self._bar.update(self._task, figures=text)
        self._sums, self._num_added = {}, 0

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._is_shown:
            self._bar.stop()


def _keep_rows(path: Path, done: int) -> float:
    """Drop the rows of steps that will be made again; seconds spent up to the last one kept."""
    if not path.exists():
        return 0.0
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.split(",")[0]) <= done]
    path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    return float(kept[-1].split(",")[1]) if kept else 0.0
