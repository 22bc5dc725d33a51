"""Lessons about letters and words: spell, reverse, count, sort.

Half of the single words are real (``word_lists``), half are made up: 1 to 3 pieces joined, where a
piece is the letters of a vocabulary entry of 1 to 5 letters a-z. A model sees tokens, not letters,
so it must have met a token to know how it is spelled; the made-up words bring all of them. Lists of
words to count or to sort hold real words.

Held out: one word in ten by its hash, real or made up, in every language at once, unless it is a
single token. A list to teach
holds no such word; a list to test may, and is itself held out as a set of words.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from random import Random
from string import ascii_lowercase
from typing import Final

from cluster.demo.lessons import words_text
from cluster.demo.lessons.document import (
    LANGUAGES,
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
    wants_thinking,
)
from cluster.demo.lessons.phrasing import Cores, phrase
from cluster.demo.lessons.split import MAX_DRAWS, belongs
from cluster.demo.lessons.word_lists import WORDS

HELD_OUT_EVERY: Final = 10
HIGH_SHARE: Final = 1 / 3  # of the documents have thinking
MADE_UP_SHARE: Final = 1 / 2  # of the single words
PRESENT_SHARE: Final = 3 / 4  # of the letters asked for are in the word
DISTINCT_INITIALS_SHARE: Final = 3 / 4  # of the lists to sort; the others are as they come
MAX_PIECES: Final = 3
MADE_UP_LETTERS: Final = range(3, 11)
COUNTED_WORDS: Final = (2, 7)
SORTED_WORDS: Final = (3, 5)


def _read_tokens() -> frozenset[str]:
    """Every vocabulary entry that is letters, without its leading blank."""
    path = files("router.chat").joinpath("data", "tekken-8k.json")
    tekken = json.loads(path.read_text(encoding="utf-8"))
    config = tekken["config"]
    num_used = config["default_vocab_size"] - config["default_num_special_tokens"]
    entries = (base64.b64decode(entry["token_bytes"]) for entry in tekken["vocab"][:num_used])
    texts = (entry.decode(errors="ignore").removeprefix(" ") for entry in entries)
    return frozenset(text for text in texts if text.isalpha())


TOKENS: Final = _read_tokens()
PIECES: Final = tuple(sorted(text for text in TOKENS if re.fullmatch("[a-z]{1,5}", text)))


def word_belongs(split: Split, word: str) -> bool:
    """Whether ``split`` may use a word. One that is a single token is never held out.

    The letters of a token cannot be told without having met it.
    """
    if word in TOKENS:
        return split == "train"
    return belongs(split, word, every=HELD_OUT_EVERY)


def _words_of(split: Split) -> dict[Language, tuple[str, ...]]:
    return {
        language: tuple(word for word in WORDS[language] if word_belongs(split, word))
        for language in LANGUAGES
    }


TRAIN_WORDS: Final[Mapping[Language, tuple[str, ...]]] = _words_of("train")
TEST_WORDS: Final[Mapping[Language, tuple[str, ...]]] = _words_of("test")


def word_of(rng: Random, split: Split, language: Language) -> str:
    """A word of ``split``, real or made up."""
    if rng.random() < MADE_UP_SHARE:
        while not word_belongs(split, word := _made_up_word(rng)):
            pass
        return word
    return rng.choice((TRAIN_WORDS if split == "train" else TEST_WORDS)[language])


def words_belong(split: Split, words: tuple[str, ...]) -> bool:
    """Whether ``split`` may use these words together, in any order."""
    if not belongs(split, *sorted(words), every=HELD_OUT_EVERY):
        return False
    return split == "test" or all(word_belongs(split, word) for word in words)


def spelled(word: str) -> str:
    """``plan`` as ``p-l-a-n``."""
    return "-".join(word)


def numbered(word: str) -> str:
    """``plan`` as ``1p-2l-3a-4n``: where a letter stands can then be read instead of counted."""
    return "-".join(f"{i}{letter}" for i, letter in enumerate(word, start=1))


def spell(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """A word letter by letter. ``effort`` None: as often high as ``HIGH_SHARE`` says."""
    word = word_of(rng, split, language)
    answer = spelled(word)
    ask = partial(_ask, "spell", rng, split, language, effort)
    return ask(words_text.SPELL, {"w": word}, answer, thinking=answer)


def reverse(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """A word letter by letter, from its end; the thinking numbers its letters there and back."""
    word = word_of(rng, split, language)
    there = numbered(word)
    back = "-".join(reversed(there.split("-")))
    ask = partial(_ask, "reverse", rng, split, language, effort)
    return ask(words_text.REVERSE, {"w": word}, spelled(word[::-1]), thinking=f"{there}\n{back}")


def count(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """How many letters a word has, how often a letter is in it, or how many words a list has."""
    lesson = rng.choice((count_letters, count_letter, count_list))
    return lesson(rng, split, language, effort=effort)


def count_letters(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """How many letters a word has: ``p-l-a-n-e-t: 6``."""
    word = word_of(rng, split, language)
    answer = f"{spelled(word)}: {len(word)}"
    ask = partial(_ask, "count", rng, split, language, effort)
    return ask(words_text.COUNT_LETTERS, {"w": word}, answer, thinking=numbered(word))


def count_letter(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """How often a letter is in a word: ``c-h-e-e-s-e: 3``. A letter with an accent is another."""
    word = word_of(rng, split, language)
    letter = _asked_letter(rng, word)
    answer = f"{spelled(word)}: {word.count(letter)}"
    ask = partial(_ask, "count", rng, split, language, effort)
    fields = {"w": word, "x": letter}
    return ask(words_text.COUNT_LETTER, fields, answer, thinking=_marked(word, letter))


def count_list(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """How many words a list has: ``1 pear, 2 fig: 2``."""
    words = _draw_list(rng, split, language, rng.randint(*COUNTED_WORDS))
    numbered = ", ".join(f"{number} {word}" for number, word in enumerate(words, start=1))
    ask = partial(_ask, "count", rng, split, language, effort)
    return ask(
        words_text.COUNT_LIST,
        {"words": ", ".join(words)},
        f"{numbered}: {len(words)}",
        thinking=str(len(words)),
    )


def sort(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """Words in alphabetical order; the thinking has them behind their first two letters."""
    number = rng.randint(*SORTED_WORDS)
    distinct = rng.random() < DISTINCT_INITIALS_SHARE
    words = _draw_list(rng, split, language, number, sortable=True, distinct_initials=distinct)
    in_order = sorted(words)
    ask = partial(_ask, "sort", rng, split, language, effort)
    return ask(
        words_text.SORT,
        {"words": ", ".join(words)},
        ", ".join(in_order),
        thinking="\n".join(map(_behind_initials, (words, in_order))),
    )


LESSONS: Mapping[str, Lesson] = {"spell": spell, "reverse": reverse, "count": count, "sort": sort}


def _marked(word: str, letter: str) -> str:
    """``cheese`` as ``c-h-e1-e2-s-e3``."""
    marks = []
    for i, other in enumerate(word):
        marks.append(f"{other}{word[: i + 1].count(letter)}" if other == letter else other)
    return "-".join(marks)


def _behind_initials(words: Sequence[str]) -> str:
    """``fig, pear`` as ``fi fig, pe pear``: what is compared stands beside what is written."""
    return ", ".join(f"{word[:2]} {word}" for word in words)


def _made_up_word(rng: Random) -> str:
    for _ in range(MAX_DRAWS):
        word = "".join(rng.choices(PIECES, k=rng.randint(1, MAX_PIECES)))
        if len(word) in MADE_UP_LETTERS:
            return word
    raise RuntimeError(f"no made-up word in {MAX_DRAWS} draws")


def _plain(text: str) -> str:
    """The text without accents: dictionaries order ``é`` with ``e``."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def _asked_letter(rng: Random, word: str) -> str:
    """A letter whose count nobody disputes: not ``e`` where the word also has ``é``."""
    plain = _plain(word)
    if rng.random() < PRESENT_SHARE:
        # Position by position, so that repeated letters are asked for more often.
        present = [letter for letter in word if word.count(letter) == plain.count(_plain(letter))]
        return rng.choice(present)
    return rng.choice([letter for letter in ascii_lowercase if letter not in plain])


def _draw_list(
    rng: Random,
    split: Split,
    language: Language,
    number: int,
    *,
    sortable: bool = False,
    distinct_initials: bool = False,
) -> tuple[str, ...]:
    """``number`` different real words, in no order.

    ``sortable`` keeps lists whose order is the same with and without accents, as ``zoo, été`` is
    not: one order is right for a machine, another in a dictionary.
    """
    known = TRAIN_WORDS[language] if split == "train" else WORDS[language]
    for _ in range(MAX_DRAWS):
        words = tuple(rng.sample(known, number))
        if not words_belong(split, words):
            continue
        if sortable and sorted(words) != sorted(words, key=_plain):
            continue
        if distinct_initials and len({word[0] for word in words}) < number:
            continue
        return words
    raise RuntimeError(f"no {number} words of the {split} split in {MAX_DRAWS} draws")


def _ask(
    task: str,
    rng: Random,
    split: Split,
    language: Language,
    effort: Effort | None,
    cores: Cores,
    fields: Mapping[str, object],
    answer: str,
    *,
    thinking: str,
) -> Document:
    question = phrase(rng, split, language, cores, **fields)
    high = wants_thinking(rng, effort, HIGH_SHARE)
    return single_turn(task, language, question, answer, thinking=thinking if high else "")
