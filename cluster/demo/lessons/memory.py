"""Memory lessons: the user tells something and asks for it a turn or two later.

Held out: one value in eight of every list, and whole phrasings of the telling and of the asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final, NamedTuple

from cluster.demo.lessons import chat, chat_text
from cluster.demo.lessons.document import (
    LANGUAGES,
    Document,
    Effort,
    Language,
    Lesson,
    Message,
    Split,
    wants_note,
)
from cluster.demo.lessons.facts import draw_fact
from cluster.demo.lessons.memory_text import KINDS
from cluster.demo.lessons.phrasing import phrase
from cluster.demo.lessons.split import of_split

HELD_OUT_EVERY: Final = 8
BETWEEN_SHARE: Final = 1 / 2  # another turn stands between telling and asking
BEFORE_SHARE: Final = 1 / 4  # of the others: something else was told before
SMALL_TALK: Final = ("mood", "skills", "who", "thanks")  # what may come up in mid-conversation
SMALL_FACTS: Final = ("capital", "next", "opposite")


class _Turn(NamedTuple):
    said: str
    note: str  # the thinking of effort high
    answer: str


_VALUES: Final[Mapping[Split, Mapping[str, Mapping[Language, tuple[str, ...]]]]] = {
    split: {
        name: {
            language: of_split(kind.values[language], split, every=HELD_OUT_EVERY)
            for language in LANGUAGES
        }
        for name, kind in KINDS.items()
    }
    for split in ("train", "test")
}


def values(kind: str, split: Split, language: Language) -> tuple[str, ...]:
    """The values of ``split`` for one of ``memory_text.KINDS``."""
    return _VALUES[split][kind][language]


def memory(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """Something told, at times something else, then a question for what was told first or last.

    With effort high every answer has its note. ``effort`` None: as ``wants_note`` draws it.
    """
    kind, other = rng.sample(tuple(KINDS), 2)
    value = rng.choice(values(kind, split, language))
    turns = [_tell(rng, split, language, kind, value)]
    if rng.random() < BETWEEN_SHARE:
        turns.append(_distraction(rng, split, language, other))
    elif rng.random() < BEFORE_SHARE:
        turns.insert(0, _tell_any(rng, split, language, other))
    asked = _phrase(rng, split, language, kind, value, ask=True)
    turns.append(_Turn(asked, value, f"{value}."))
    high = wants_note(rng, split, effort)
    messages = (message for turn in turns for message in _messages(turn, high=high))
    return Document("memory", language, "high" if high else "none", tuple(messages))


LESSONS: Mapping[str, Lesson] = {"memory": memory}


def _phrase(
    rng: Random, split: Split, language: Language, kind: str, value: str, *, ask: bool
) -> str:
    texts = KINDS[kind]
    mine = texts.mine[language]
    cores = texts.ask if ask else texts.tell
    capitalised = mine[:1].upper() + mine[1:]
    return phrase(rng, split, language, cores, value=value, mine=mine, Mine=capitalised)


def _tell(rng: Random, split: Split, language: Language, kind: str, value: str) -> _Turn:
    said = _phrase(rng, split, language, kind, value, ask=False)
    return _Turn(said, value, KINDS[kind].noted[language].format(value=value))


def _tell_any(rng: Random, split: Split, language: Language, kind: str) -> _Turn:
    return _tell(rng, split, language, kind, rng.choice(values(kind, split, language)))


def _distraction(rng: Random, split: Split, language: Language, other: str) -> _Turn:
    """Small talk, a fact, or something of the kind ``other`` told, one as often as the next."""
    choice = rng.randrange(3)
    if choice == 0:
        intent = rng.choice(SMALL_TALK)
        said = chat.draw_chat(rng, split, language, intent)
        return _Turn(said, chat_text.NOTES[intent], chat.answer(language, intent))
    if choice == 1:
        said, fact = draw_fact(rng, split, language, rng.choice(SMALL_FACTS))
        return _Turn(said, fact.note, fact.answer)
    return _tell_any(rng, split, language, other)


def _messages(turn: _Turn, *, high: bool) -> tuple[Message, Message]:
    thinking = turn.note if high else ""
    return Message("user", turn.said), Message("assistant", turn.answer, thinking=thinking)
