"""Copying: made-up words of any vocabulary entry, to be written again exactly.

Without this lesson tool calls and words hardly move: the model must first learn to copy, and to
copy every entry of the vocabulary. It is taught, not graded. Documents draw from inventories of
very different sizes: copying starts on few pieces, and then carries over to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
)
from cluster.demo.lessons.split import belongs
from cluster.demo.lessons.words import TOKENS

HELD_OUT_EVERY: Final = 10
NUM_WORDS: Final = (2, 6)
INVENTORIES: Final = (20, 60, 200, 600, 2000, 10000)
CORES: Final[Mapping[Language, str]] = {
    "en": "Repeat: {text}",
    "fr": "Répète : {text}",
    "de": "Wiederhole: {text}",
    "nl": "Herhaal: {text}",
    "es": "Repite: {text}",
    "it": "Ripeti: {text}",
}
_PIECES: Final = sorted(text for text in TOKENS if text.istitle() or text.islower())
_MIXED: Final = Random(0).sample(_PIECES, len(_PIECES))


def repeat(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """2 to 6 made-up words, parted by blanks or commas, bare or in quotation marks.

    ``effort`` high: it thinks of the number of words. None is the same as none.
    """
    while True:
        known = _MIXED[: rng.choice(INVENTORIES)]
        words = [_word(rng, known) for _ in range(rng.randint(*NUM_WORDS))]
        if rng.random() < 1 / 4:
            words = [f'"{word}"' for word in words]
        text = rng.choice((" ", ", ")).join(words)
        if belongs(split, text, every=HELD_OUT_EVERY):
            thinking = str(len(words)) if effort == "high" else ""
            question = CORES[language].format(text=text)
            return single_turn("repeat", language, question, text, thinking=thinking)


def _word(rng: Random, known: Sequence[str]) -> str:
    return "".join(rng.choices(known, k=rng.choice((1, 1, 2))))


LESSONS: Final[Mapping[str, Lesson]] = {"repeat": repeat}
