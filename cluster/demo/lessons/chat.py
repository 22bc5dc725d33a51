"""Chat lessons: greetings, what the model is, and system messages that name a language.

An answer is fixed by the intent and the language. The sentences of the user are shared by train
and test, their combinations with openers and closers are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import product
from random import Random
from typing import Final

from cluster.demo.lessons import chat_text, facts_table
from cluster.demo.lessons.document import (
    LANGUAGES,
    Document,
    Effort,
    Language,
    Lesson,
    Message,
    Split,
    single_turn,
    wants_note,
)
from cluster.demo.lessons.facts import CORES as FACT_CORES
from cluster.demo.lessons.phrasing import CLOSERS, HELD_OUT_EVERY, OPENERS, phrase
from cluster.demo.lessons.split import MAX_DRAWS, draw

CASUAL_SHARE: Final = 1 / 8  # of the chat is typed without capitals and without a last mark
CAPITAL_SHARE: Final = 1 / 2  # of the questions under a system message; the rest are greetings


def answer(language: Language, intent: str) -> str:
    """What the model says to an intent of ``chat_text.INTENTS``."""
    text: str = getattr(chat_text.ANSWERS[language], intent)
    return text


def casual(text: str) -> str:
    """The text as people type it in haste: "Who are you?" becomes "who are you"."""
    return text.lower().strip("¡!¿?. ")


def _ambiguous(language: Language) -> frozenset[str]:
    """Casual forms of chat questions that can be put together in two ways.

    "Hello! Thanks!" is a greeting with a closer and thanks with an opener: not one answer, and not
    one split.
    """
    forms: Counter[str] = Counter()
    for cores in chat_text.CORES.values():
        parts = product(OPENERS[language], cores[language], CLOSERS[language])
        forms.update(casual("".join(combination)) for combination in parts)
    return frozenset(form for form, count in forms.items() if count > 1)


_AMBIGUOUS: Final = {language: _ambiguous(language) for language in LANGUAGES}


def draw_chat(rng: Random, split: Split, language: Language, intent: str) -> str:
    """What a user says with this intent, in a phrasing of ``split``.

    Raises:
        RuntimeError: Every phrasing of the split is ambiguous.
    """
    for _ in range(MAX_DRAWS):
        text = phrase(rng, split, language, chat_text.CORES[intent])
        if casual(text) not in _AMBIGUOUS[language]:
            return casual(text) if rng.random() < CASUAL_SHARE else text
    raise RuntimeError(f"no clear phrasing of the {split} split for {intent} in {language}")


def chat(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """One turn of small talk. ``effort`` None: as ``wants_note`` draws it."""
    intent = rng.choice(chat_text.INTENTS)
    question = draw_chat(rng, split, language, intent)
    thinking = ""
    if wants_note(rng, split, effort):
        thinking = facts_table.in_language(language, chat_text.NOTES[intent])
    return single_turn("chat", language, question, answer(language, intent), thinking=thinking)


def system(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """A question in ``language`` under a system message that wants another language.

    The system message itself may be in any of the six; its combinations of sentence and language
    are held out like phrasings.
    """
    into, instruction = _draw_instruction(rng, split, language)
    if rng.random() < CAPITAL_SHARE:
        i = rng.randrange(len(facts_table.COUNTRIES[language]))
        asked, answered = facts_table.COUNTRIES[language][i], facts_table.COUNTRIES[into][i]
        cores = FACT_CORES["capital"]
        question = phrase(rng, split, language, cores, of=asked.of, name=asked.name)
        note, reply = answered.name, answered.capital
    else:
        question = draw_chat(rng, split, language, "greeting")
        note, reply = chat_text.NOTES["greeting"], answer(into, "greeting")
    thinking = ""
    if wants_note(rng, split, effort):
        thinking = facts_table.in_language(into, note)
    document = single_turn("system", language, question, reply, thinking=thinking)
    return document._replace(messages=(Message("system", instruction), *document.messages))


LESSONS: Mapping[str, Lesson] = {"chat": chat, "system": system}


def _draw_instruction(rng: Random, split: Split, asked: Language) -> tuple[Language, str]:
    """The language to answer in, other than ``asked``, and the sentence that says so."""
    others = [language for language in LANGUAGES if language != asked]
    into = rng.choice(others)

    def sentence(rng: Random) -> str:
        written = rng.choice(LANGUAGES)
        core = rng.choice(chat_text.SYSTEM[written])
        return core.format(into=facts_table.LANGUAGE_NAMES[written][into])

    return into, draw(rng, split, sentence, every=HELD_OUT_EVERY)
