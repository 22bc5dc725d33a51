"""The exam's outcome: a table for the terminal, the same in Markdown, every answer in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cluster.demo.evaluation.exam import EFFORTS
from cluster.demo.evaluation.grading import Graded, Line
from cluster.demo.evaluation.routing import LayerLoad
from cluster.demo.lessons.document import Effort, Message

_MARKS = {True: " [green]ok[/]", False: " [red]below[/]", None: ""}


def score_table(title: str, lines: Sequence[Line]) -> Table:
    """A row per group and task, a column per effort, the bar where there is one."""
    shown = Table("task", *(f"effort {effort}" for effort in EFFORTS), "questions", title=title)
    for line in lines:
        cells = [_cell(line, effort) + _MARKS[line.is_met(effort)] for effort in EFFORTS]
        name = f"[bold]{line.name}[/]" if line.is_group else f"  {line.name}"
        shown.add_row(name, *cells, str(_asked(line)))
    return shown


def score_markdown(lines: Sequence[Line]) -> str:
    """The same table for a README."""
    rows = [
        "| task | effort none | effort high | questions |",
        "|---|---:|---:|---:|",
    ]
    for line in lines:
        name = f"**{line.name}**" if line.is_group else line.name
        cells = " | ".join(_cell(line, effort) for effort in EFFORTS)
        rows.append(f"| {name} | {cells} | {_asked(line)} |")
    return "\n".join(rows) + "\n"


def load_table(described: Sequence[LayerLoad], num_shards: int) -> Table:
    """A row per layer: how uneven the gate is."""
    shown = Table(
        "layer", "unused", "hottest", "its share", "over mean", f"{num_shards} shards max/mean"
    )
    for layer, found in enumerate(described):
        shown.add_row(
            str(layer),
            str(found.unused),
            str(found.hottest),
            f"{found.hottest_share:.1%}",
            f"{found.hottest_over_mean:.1f}",
            f"{found.shards_over_mean:.2f}",
        )
    return shown


def write_answers(graded: Sequence[Graded], path: Path) -> None:
    """Every question with its answer, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for document, reply, is_right in graded:
            *asked, wanted = map(_plain, document.messages)
            row = {
                "task": document.task,
                "language": document.language,
                "effort": document.effort,
                "tools": [tool["function"]["name"] for tool in document.tools],
                "asked": asked,
                "wanted": wanted,
                "answer": _plain(Message("assistant", reply.text, reply.thinking, reply.calls)),
                "right": is_right,
                "ended": reply.has_ended,
                "tokens": len(reply.token_ids),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _plain(message: Message) -> dict[str, object]:
    """A message without its empty fields; a picture as what is in it."""
    fields = message._asdict() | {"calls": [call._asdict() for call in message.calls]}
    return {
        name: value if name != "picture" else str(value) for name, value in fields.items() if value
    }


def _cell(line: Line, effort: Effort) -> str:
    bar = f" (bar {line.bars[effort]:.0%})" if effort in line.bars else ""
    return f"{line.scores[effort].share:.1%}{bar}"


def _asked(line: Line) -> int:
    return sum(score.asked for score in line.scores.values())
