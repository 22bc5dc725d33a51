"""Questions and answers of the demo on a terminal, its picture included."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from cluster.demo.evaluation.asking import Reply
from cluster.demo.lessons.document import Call, Document, Picture

COLUMNS = 28  # of a picture on the terminal; a character holds two pixels, one above the other


def print_question(console: Console, document: Document) -> None:
    """Everything that the model is given, the tools by their names."""
    if document.tools:
        names = ", ".join(tool["function"]["name"] for tool in document.tools)
        console.print(f"  tools: {names}", style="dim", markup=False)
    for message in document.messages[:-1]:
        if message.picture is not None:
            is_coloured = console.color_system is not None
            console.print(picture_text(message.picture) if is_coloured else "  (a picture)")
        text = message.text or ", ".join(_written(message.calls))
        console.print(f"  {message.role}> {text}", markup=False)


def print_answer(console: Console, reply: Reply) -> None:
    """Reasoning on one line, text, and tool calls."""
    if reply.thinking:
        console.print(f"  thinks> {reply.thinking}".replace("\n", "  "), style="dim", markup=False)
    shown = [reply.text] if reply.text else []
    shown += _written(reply.calls)
    console.print(f"  assistant> {'  '.join(shown)}", style="cyan", markup=False)


def picture_text(picture: Picture) -> Text:
    """The picture in half blocks, ``COLUMNS`` wide."""
    pixels = picture.pixels()
    step = max(1, pixels.shape[1] // COLUMNS)
    small = pixels[step // 2 :: step, step // 2 :: step]
    text = Text()
    for upper, lower in zip(small[0::2], small[1::2], strict=False):
        text.append("  ")
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            style = Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            text.append("▀", style)
        text.append("\n")
    text.rstrip()
    return text


def _written(calls: Iterable[Call]) -> list[str]:
    return [f"{c.name}({json.dumps(c.arguments, ensure_ascii=False)})" for c in calls]
