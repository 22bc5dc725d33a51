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

# Weights. Copying comes first: without it tools and words do not move.
FIRST: Mapping[str, float] = {
    "repeat": 44, "spell": 12, "add": 16, "subtract": 9, "compare": 2, "tool-call": 5, "json": 8,
    "memory": 4,
}  # fmt: skip
MAIN: Mapping[str, float] = {
    "add": 3, "subtract": 3, "compare": 2, "sum": 3,
    "spell": 5, "reverse": 8, "count": 7, "sort": 6, "repeat": 8, "letters": 12,
    "tool-call": 6, "tool-none": 10, "tool-result": 5, "tool-parallel": 6,
    "json": 7, "code": 2.5, "memory": 4,
    "picture-count": 6, "picture-which": 3, "picture-size": 5, "picture-where": 6,
    "picture-all": 5,
    "capital": 5, "translate": 7, "next": 3, "opposite": 3, "chat": 7, "system": 6,
}  # fmt: skip
FIRST_UNTIL = 0.15  # share of the training
ENGLISH_SHARE = 0.35


def draw_document(rng: Random, progress: float) -> Document:
    """A training document for this part of the training (0 to 1)."""
    mix = FIRST if progress < FIRST_UNTIL else MAIN
    task = rng.choices(list(mix), list(mix.values()))[0]
    language = "en" if rng.random() < ENGLISH_SHARE else rng.choice(LANGUAGES[1:])
    return LESSONS[task](rng, "train", language)
