"""Which lesson how often, and in which language."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from cluster.demo.lessons import (
    arithmetic,
    chat,
    code,
    drills,
    facts,
    memory,
    pictures,
    structured,
    tools,
    words,
)
from cluster.demo.lessons.document import LANGUAGES, Document, Lesson

LESSONS: Mapping[str, Lesson] = {
    **arithmetic.LESSONS,
    **words.LESSONS,
    **tools.LESSONS,
    **structured.LESSONS,
    **code.LESSONS,
    **pictures.LESSONS,
    **facts.LESSONS,
    **chat.LESSONS,
    **memory.LESSONS,
    **drills.LESSONS,
}

# Documents in a hundred, roughly. Copying comes first: without it tools and words do not move.
FIRST: Mapping[str, float] = {
    "repeat": 44, "spell": 12, "add": 16, "subtract": 9, "compare": 2, "tool-call": 5, "json": 8,
    "memory": 4,
}  # fmt: skip
MAIN: Mapping[str, float] = {
    "add": 8, "subtract": 8, "compare": 2.5, "sum": 5,
    "spell": 5, "reverse": 7, "count": 7, "sort": 4, "repeat": 9, "letters": 8,
    "tool-call": 8, "tool-none": 2, "tool-result": 3, "tool-parallel": 4,
    "json": 4, "code": 2, "memory": 3,
    "picture-count": 3.5, "picture-which": 2, "picture-size": 2, "picture-where": 2,
    "picture-all": 2.5,
    "capital": 4, "translate": 9, "next": 3, "opposite": 3, "chat": 3, "system": 2,
}  # fmt: skip
FIRST_UNTIL = 0.15  # share of the training
ENGLISH_SHARE = 0.35


def draw_document(rng: Random, progress: float) -> Document:
    """A training document for this part of the training (0 to 1)."""
    mix = FIRST if progress < FIRST_UNTIL else MAIN
    task = rng.choices(list(mix), list(mix.values()))[0]
    language = "en" if rng.random() < ENGLISH_SHARE else rng.choice(LANGUAGES[1:])
    return LESSONS[task](rng, "train", language)
