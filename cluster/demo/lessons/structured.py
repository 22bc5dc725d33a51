"""Lessons about JSON: pairs said in words, written as an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
    wants_note,
)
from cluster.demo.lessons.phrasing import Cores, phrase
from cluster.demo.lessons.split import of_split
from cluster.demo.lessons.tools import INTEGERS, WORDS, draw_word
from cluster.demo.lessons.tools_cores import AND
from cluster.demo.lessons.tools_text import HELD_OUT_EVERY

FLAGS: Final = tuple(
    """active urgent public paid ready open closed hidden new used old fast slow free full empty
    valid online sold booked""".split()
)
LISTS: Final = tuple(
    """tags names items cities colours animals fruits books teams rooms tools games parts guests
    topics songs""".split()
)
CORES: Final[Cores] = {
    "en": ("JSON: {pairs}.", "As JSON: {pairs}.", "Write JSON with {pairs}.",
           "I need JSON: {pairs}.",
           "Make a JSON object with {pairs}.", "Turn this into JSON: {pairs}."),
    "fr": ("JSON : {pairs}.", "En JSON : {pairs}.", "Écris du JSON avec {pairs}.",
           "Il me faut du JSON : {pairs}.", "Fais un objet JSON avec {pairs}.",
           "Mets cela en JSON : {pairs}."),
    "de": ("JSON: {pairs}.", "Als JSON: {pairs}.", "Schreib JSON mit {pairs}.",
           "Ich brauche JSON: {pairs}.", "Mach ein JSON-Objekt mit {pairs}.",
           "Bring das in JSON: {pairs}."),
    "nl": ("JSON: {pairs}.", "Als JSON: {pairs}.", "Schrijf JSON met {pairs}.",
           "Ik wil JSON: {pairs}.", "Maak een JSON-object met {pairs}.",
           "Zet dit om in JSON: {pairs}."),
    "es": ("JSON: {pairs}.", "En JSON: {pairs}.", "Escribe JSON con {pairs}.",
           "Necesito JSON: {pairs}.", "Haz un objeto JSON con {pairs}.",
           "Pon esto en JSON: {pairs}."),
    "it": ("JSON: {pairs}.", "In JSON: {pairs}.", "Scrivi JSON con {pairs}.",
           "Mi serve JSON: {pairs}.", "Fai un oggetto JSON con {pairs}.",
           "Metti questo in JSON: {pairs}."),
}  # fmt: skip


def to_json(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """2 to 4 pairs as an object. ``effort`` None: high now and then; it thinks of their number."""
    high = wants_note(rng, split, effort)
    values: dict[str, Any] = {}
    wanted = rng.randint(2, 4)
    while len(values) < wanted:
        key, value = _pair(rng, split)
        values.setdefault(key, value)
    joint = f" {AND[language]} "
    spoken = ", ".join(f"{key} {_spoken(value, joint)}" for key, value in values.items())
    question = phrase(rng, split, language, CORES, pairs=spoken)
    thinking = str(len(values)) if high else ""
    answer = json.dumps(values, ensure_ascii=False)
    return single_turn("json", language, question, answer, thinking=thinking)


LESSONS: Final[Mapping[str, Lesson]] = {"json": to_json}


def _pair(rng: Random, split: Split) -> tuple[str, Any]:
    words = WORDS[split]
    form = rng.choices(("string", "integer", "flag", "list"), (4, 3, 1, 1))[0]
    if form == "flag":
        return rng.choice(_of(FLAGS, split)), rng.random() < 1 / 2
    if form == "list":
        return rng.choice(_of(LISTS, split)), [
            draw_word(rng, split, words.values["thing"]) for _ in range(rng.randint(2, 3))
        ]
    if form == "integer":
        return draw_word(rng, split, words.arguments["integer"]), rng.randint(*INTEGERS)
    kind = rng.choice([kind for kind in words.arguments if kind != "integer"])
    name = draw_word(rng, split, words.arguments[kind])
    return name, draw_word(rng, split, words.values[kind])


def _of(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return of_split(words, split, every=HELD_OUT_EVERY)


def _spoken(value: Any, joint: str) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return joint.join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
