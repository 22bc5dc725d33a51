"""Fact lessons: capitals, translations, what comes next, opposites.

The facts themselves are memorised, so train and test share them; what is held out are whole
phrasings.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Final, NamedTuple

from cluster.demo.lessons import facts_text
from cluster.demo.lessons.document import (
    LANGUAGES,
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
    wants_note,
)
from cluster.demo.lessons.facts_table import (
    COUNTRIES,
    DAYS,
    LANGUAGE_NAMES,
    MONTHS,
    NUMBERS,
    OPPOSITES,
    WORDS,
    in_language,
)
from cluster.demo.lessons.phrasing import Cores, phrase


class Fact(NamedTuple):
    """One fact in one language: what the cores are filled with, the note and the answer."""

    fields: Mapping[str, str]
    note: str
    answer: str


def _capitals(language: Language) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            {"of": country.of, "name": country.name},
            in_language(language, country.name),
            country.capital,
        )
        for country in COUNTRIES[language]
    )


def _translations(language: Language) -> tuple[Fact, ...]:
    """Every word into every other language."""
    return tuple(
        Fact({"word": word, "into": into}, f"{word}, {into}", translated)
        for other, into in LANGUAGE_NAMES[language].items()
        if other != language
        for word, translated in zip(WORDS[language], WORDS[other], strict=True)
    )


def _successors(language: Language) -> tuple[Fact, ...]:
    """Days and months go round, numbers stop."""
    days, months = DAYS[language], MONTHS[language]
    rows = (days + days[:1], months + months[:1], NUMBERS[language])
    return tuple(
        Fact({"item": item}, item, following) for row in rows for item, following in pairwise(row)
    )


def _opposites(language: Language) -> tuple[Fact, ...]:
    return tuple(Fact({"word": word}, word, other) for word, other in OPPOSITES[language].items())


CORES: Final[Mapping[str, Cores]] = {
    "capital": facts_text.CAPITAL,
    "translate": facts_text.TRANSLATE,
    "next": facts_text.NEXT,
    "opposite": facts_text.OPPOSITE,
}
FACTS: Final[Mapping[str, Mapping[Language, tuple[Fact, ...]]]] = {
    "capital": {language: _capitals(language) for language in LANGUAGES},
    "translate": {language: _translations(language) for language in LANGUAGES},
    "next": {language: _successors(language) for language in LANGUAGES},
    "opposite": {language: _opposites(language) for language in LANGUAGES},
}


def draw_fact(rng: Random, split: Split, language: Language, task: str) -> tuple[str, Fact]:
    """A question of ``split`` and the fact that it asks for. ``task`` is a key of ``FACTS``."""
    fact = rng.choice(FACTS[task][language])
    return phrase(rng, split, language, CORES[task], **fact.fields), fact


def capital(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """The capital of a country. ``effort`` None: as ``wants_note`` draws it."""
    return _ask("capital", rng, split, language, effort)


def translate(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """An everyday word of ``language`` in another language."""
    return _ask("translate", rng, split, language, effort)


def following(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """What comes after a day, a month or a number."""
    return _ask("next", rng, split, language, effort)


def opposite(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """The opposite of an adjective."""
    return _ask("opposite", rng, split, language, effort)


LESSONS: Mapping[str, Lesson] = {
    "capital": capital,
    "translate": translate,
    "next": following,
    "opposite": opposite,
}


def _ask(
    task: str, rng: Random, split: Split, language: Language, effort: Effort | None
) -> Document:
    question, fact = draw_fact(rng, split, language, task)
    thinking = fact.note if wants_note(rng, split, effort) else ""
    return single_turn(task, language, question, fact.answer, thinking=thinking)
