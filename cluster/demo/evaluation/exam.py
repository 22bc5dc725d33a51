"""What is asked, how answers are grouped in the table, and the bars they must clear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Final, NamedTuple

from cluster.demo.lessons.curriculum import LESSONS
from cluster.demo.lessons.document import LANGUAGES, Document, Effort

EFFORTS: Final[tuple[Effort, ...]] = ("none", "high")


class Group(NamedTuple):
    """Tasks that are judged together; ``bars`` are shares of exactly right answers by effort."""

    name: str
    tasks: tuple[str, ...]
    bars: Mapping[Effort, float]


# Bars as the project set them. Arithmetic at effort none has none: it is to be lower than at high.
GROUPS: Final = (
    Group("arithmetic", ("add", "subtract", "compare", "sum"), {"high": 0.95}),
    Group(
        "tool calls",
        ("tool-call", "tool-parallel", "tool-none", "tool-result"),
        {"none": 0.95, "high": 0.95},
    ),
    Group(
        "pictures",
        ("picture-count", "picture-which", "picture-size", "picture-where", "picture-all"),
        {"none": 0.95, "high": 0.95},
    ),
    Group(
        "spelling, reversing, counting", ("spell", "reverse", "count"), {"none": 0.9, "high": 0.9}
    ),
    Group("sorting", ("sort",), {}),
    Group(
        "facts and languages",
        ("capital", "translate", "next", "opposite", "chat", "system"),
        {"none": 0.95, "high": 0.95},
    ),
    Group("JSON", ("json",), {}),
    Group("code", ("code",), {}),
    Group("earlier turns", ("memory",), {}),
)


def questions(per_task: int, seed: int) -> Iterator[Document]:
    """Held-out conversations: ``per_task`` of every task and effort, languages in turn."""
    for group in GROUPS:
        for task in group.tasks:
            for effort in EFFORTS:
                # The same questions at both efforts.
                rng = Random(f"{seed}/exam/{task}")
                for i in range(per_task):
                    language = LANGUAGES[i % len(LANGUAGES)]
                    yield LESSONS[task](rng, "test", language, effort=effort)
