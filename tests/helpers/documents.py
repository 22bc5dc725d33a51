"""What documents say that can be held against the repository: links, anchors, commands."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DEPLOY = tuple(sorted((ROOT / "deploy").rglob("*.md")))
DOCUMENTS = (README, *DEPLOY, ROOT / "cluster/demo/README.md")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_BETWEEN_COMMANDS = frozenset({"&&", "||", ";", "|", "--"})
_ASSIGNMENT = re.compile(r"^\w+=")


@dataclass(frozen=True)
class Text:
    """A document taken apart."""

    prose: str  # without code
    spans: tuple[str, ...]  # code within lines
    blocks: tuple[tuple[str, str], ...]  # language of a fence (or nothing), code

    @classmethod
    def of(cls, markdown: str) -> Text:
        """Of GitHub's Markdown; a block is fenced, or indented by four spaces."""
        blocks = [(m[1], m[2]) for m in _FENCE.finditer(markdown)]
        rest = _FENCE.sub("", markdown)
        lines, prose = rest.splitlines(), []
        for number, line in enumerate(lines):
            if line.startswith("    ") and (not number or not lines[number - 1].strip()):
                blocks.append(("", ""))
            if (
                line.startswith("    ")
                and blocks
                and (not number or not _is_prose(lines[number - 1]))
            ):
                blocks[-1] = ("", blocks[-1][1] + line[4:] + "\n")
            else:
                prose.append(line)
        text = "\n".join(prose)
        return cls(_SPAN.sub("", text), tuple(_SPAN.findall(text)), tuple(blocks))


def _is_prose(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("    ")


def links(markdown: str) -> list[str]:
    """Targets of links and pictures within the repository: ``path#anchor``, or one of the two."""
    without_code = _SPAN.sub("", _FENCE.sub("", markdown))
    found = _LINK.findall(without_code)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(markdown: str) -> set[str]:
    """Of all headings, as GitHub makes them: lower case, no punctuation, a number if met again."""
    met: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", _FENCE.sub("", markdown), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{met[slug]}" if met[slug] else slug)
        met[slug] += 1
    return found


def commands(markdown: str) -> Iterator[list[str]]:
    """Words of every command in blocks without a language and in spans, without comments."""
    text = Text.of(markdown)
    shown = [code.replace("\\\n", " ") for language, code in text.blocks if language in ("", "sh")]
    for line in (*(line for code in shown for line in code.splitlines()), *text.spans):
        command: list[str] = []
        for word in (*_words(line), ";"):
            if word not in _BETWEEN_COMMANDS:
                command.append(word)
                continue
            while command and _ASSIGNMENT.match(command[0]):  # environment of the command
                del command[0]
            if command:
                yield command
            command = []


def _words(line: str) -> list[str]:
    """As a shell would cut them; brackets around what may be left out are taken off."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe of prose
        words = line.split()
    return [word.strip("[]") for word in words]
