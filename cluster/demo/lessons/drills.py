"""Drills, taught and not graded: copying words of any vocabulary entry, and spelling many at once.

Without copying, tool calls and words hardly move: the model must first learn to copy, and to copy
every entry of the vocabulary. Documents draw from inventories of very different sizes: copying
starts on few pieces, and then carries over to all. Letters are learned token by token: a list of
words teaches three times as many of them as a question about one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from cluster.demo.lessons import tools_text
from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
)
from cluster.demo.lessons.split import belongs
from cluster.demo.lessons.words import TOKENS, spelled, word_of

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
LIST_CORES: Final[Mapping[Language, str]] = {
    "en": "As a list: {text}",
    "fr": "En liste : {text}",
    "de": "Als Liste: {text}",
    "nl": "Als lijst: {text}",
    "es": "En lista: {text}",
    "it": "In lista: {text}",
}
TEXT_CORES: Final[Mapping[Language, str]] = {
    "en": "As text: {text}",
    "fr": "En texte : {text}",
    "de": "Als Text: {text}",
    "nl": "Als tekst: {text}",
    "es": "En texto: {text}",
    "it": "In testo: {text}",
}
NAME_CORES: Final[Mapping[Language, str]] = {
    "en": "As a name: {text}",
    "fr": "En un nom : {text}",
    "de": "Als Name: {text}",
    "nl": "Als naam: {text}",
    "es": "En un nombre: {text}",
    "it": "In un nome: {text}",
}
SPELL_CORES: Final[Mapping[Language, str]] = {
    "en": "Letter by letter: {text}",
    "fr": "Lettre par lettre : {text}",
    "de": "Buchstabe für Buchstabe: {text}",
    "nl": "Letter voor letter: {text}",
    "es": "Letra por letra: {text}",
    "it": "Lettera per lettera: {text}",
}
REVERSE_CORES: Final[Mapping[Language, str]] = {
    "en": "Backwards: {text}",
    "fr": "À l'envers : {text}",
    "de": "Rückwärts: {text}",
    "nl": "Achterstevoren: {text}",
    "es": "Al revés: {text}",
    "it": "Al contrario: {text}",
}
NUM_SPELLED: Final = (3, 7)
REVERSE_SHARE: Final = 1 / 3
_PIECES: Final = sorted(
    text
    for text in TOKENS
    if (text.istitle() or text.islower())
    and belongs("train", text, every=tools_text.HELD_OUT_EVERY)  # not copied before the test
)
_MIXED: Final = Random(0).sample(_PIECES, len(_PIECES))


def repeat(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """2 to 6 made-up words from one form into another.

    A word after a blank, in quotation marks and after an underscore is three times other tokens:
    which stand for which must be learned for every entry. ``effort`` high: it thinks of the number
    of words. None is the same as none.
    """
    while True:
        known = _MIXED[: rng.choice(INVENTORIES)]
        words = [_word(rng, known) for _ in range(rng.randint(*NUM_WORDS))]
        if belongs(split, " ".join(words), every=HELD_OUT_EVERY):
            cores, text, answer = _copied(rng, words)
            thinking = str(len(words)) if effort == "high" else ""
            question = cores[language].format(text=text)
            return single_turn("repeat", language, question, answer, thinking=thinking)


def _copied(rng: Random, words: Sequence[str]) -> tuple[Mapping[Language, str], str, str]:
    """How it is asked, what is given, and what is to be written."""
    plain = rng.choice((" ", ", ")).join(words)
    as_list = json.dumps(words, ensure_ascii=False)
    match rng.choices(("repeat", "list", "text", "name"), (2, 4, 2, 2))[0]:
        case "list":
            return LIST_CORES, plain, as_list
        case "text":
            return TEXT_CORES, as_list, ", ".join(words)
        case "name":
            return NAME_CORES, plain, "_".join(words)
        case _:
            quoted = " ".join(f'"{word}"' for word in words)
            text = quoted if rng.random() < 1 / 4 else plain
            return CORES, text, text


def letters(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """3 to 7 words letter by letter, forwards or backwards.

    ``effort`` high: it thinks of the number of words. None is the same as none.
    """
    words = [word_of(rng, split, language) for _ in range(rng.randint(*NUM_SPELLED))]
    is_reversed = rng.random() < REVERSE_SHARE
    cores = REVERSE_CORES if is_reversed else SPELL_CORES
    answer = ", ".join(spelled(word[::-1] if is_reversed else word) for word in words)
    question = cores[language].format(text=", ".join(words))
    thinking = str(len(words)) if effort == "high" else ""
    return single_turn("letters", language, question, answer, thinking=thinking)


def _word(rng: Random, known: Sequence[str]) -> str:
    return "".join(rng.choices(known, k=rng.choice((1, 1, 2))))


LESSONS: Final[Mapping[str, Lesson]] = {"repeat": repeat, "letters": letters}
