"""Lessons about tools: call the right one, call two, call none, tell what came back.

Held out: nouns of tool names, names of arguments and string values, one in ``HELD_OUT_EVERY``. Most
words to teach are made up: names and values are there to be copied, not to be known by heart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any, Final, NamedTuple

from cluster.demo.lessons.document import (
    LANGUAGES,
    Call,
    Document,
    Effort,
    Language,
    Lesson,
    Message,
    Split,
    wants_note,
)
from cluster.demo.lessons.phrasing import CLOSERS, OPENERS, phrase
from cluster.demo.lessons.split import belongs, of_split
from cluster.demo.lessons.tools_cores import AND, ASK, NO_TOOL, RESULT, SMALL_TALK
from cluster.demo.lessons.tools_text import (
    ARGUMENTS,
    HELD_OUT_EVERY,
    NOUNS,
    PERSONS,
    PLACES,
    QUALITIES,
    STATES,
    THINGS,
    TOPICS,
    VERBS,
    Kind,
)
from cluster.demo.lessons.words import PIECES

QUOTED_SHARE: Final = 1 / 3  # of the sentences have their string values in quotation marks
TWO_ROUNDS_SHARE: Final = 1 / 2  # of the documents to teach: a long tool prompt is used twice
MADE_UP_SHARE: Final = 2 / 3
MIXED_SHARE: Final = 1 / 3  # of the made-up words are of a list's halves, the others of any pieces
# How often 1, 2, 3 and 4 tools are offered: a tool costs 60 tokens, so training has few.
OFFERS: Final[Mapping[Split, tuple[int, ...]]] = {"train": (40, 35, 15, 10), "test": (1, 1, 1, 1)}
INTEGERS: Final = (0, 999)


class Words(NamedTuple):
    """What one split may use."""

    nouns: tuple[str, ...]
    arguments: Mapping[Kind, tuple[str, ...]]
    values: Mapping[Kind, tuple[str, ...]]
    qualities: tuple[str, ...]
    states: tuple[str, ...]


class Tool(NamedTuple):
    """A tool on offer: ``get_weather(city: place)``."""

    verb: str
    noun: str
    arguments: tuple[tuple[str, Kind], ...]

    @property
    def name(self) -> str:
        """As it is called."""
        return f"{self.verb}_{self.noun}"

    @property
    def act(self) -> str:
        """As it is spoken of."""
        return f"{self.verb} {self.noun}"

    def definition(self) -> dict[str, Any]:
        """As OpenAI's API wants it."""
        kinds = {
            name: "integer" if kind == "integer" else "string" for name, kind in self.arguments
        }
        properties = {name: {"type": kind} for name, kind in kinds.items()}
        parameters = {"type": "object", "properties": properties, "required": list(kinds)}
        function = {"name": self.name, "description": self.act, "parameters": parameters}
        return {"type": "function", "function": function}


def _words(split: Split) -> Words:
    def mine(words: Sequence[str]) -> tuple[str, ...]:
        return of_split(words, split, every=HELD_OUT_EVERY)

    values: dict[Kind, tuple[str, ...]] = {
        "person": mine(PERSONS),
        "place": mine(PLACES),
        "thing": mine(THINGS),
        "topic": mine(TOPICS),
    }
    arguments = {kind: mine(names) for kind, names in ARGUMENTS.items()}
    arguments = {kind: names for kind, names in arguments.items() if names}
    return Words(mine(NOUNS), arguments, values, mine(QUALITIES), mine(STATES))


WORDS: Final[Mapping[Split, Words]] = {"train": _words("train"), "test": _words("test")}


def tool_call(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """One of the tools on offer, with its arguments. ``effort`` None: high now and then."""
    return _document("tool-call", rng, split, language, effort, _ask_one)


def tool_parallel(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """Two calls in one answer: one tool twice, or two tools."""
    return _document("tool-parallel", rng, split, language, effort, _ask_two)


def tool_none(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """None of the tools does what is asked; the answer says so."""
    return _document("tool-none", rng, split, language, effort, _ask_none)


def tool_result(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """What a tool returned, in words."""
    return _document("tool-result", rng, split, language, effort, _ask_and_tell)


LESSONS: Final[Mapping[str, Lesson]] = {
    "tool-call": tool_call,
    "tool-none": tool_none,
    "tool-result": tool_result,
    "tool-parallel": tool_parallel,
}

# Messages of one round: from the user's question to the assistant's answer.
Round = Callable[[Random, Split, Language, Effort, Sequence[Tool]], tuple[Message, ...]]


def _document(
    task: str, rng: Random, split: Split, language: Language, effort: Effort | None, ask: Round
) -> Document:
    effort = "high" if wants_note(rng, split, effort) else "none"
    tools = _offer(rng, split)
    messages: tuple[Message, ...] = ()
    if split == "train" and rng.random() < TWO_ROUNDS_SHARE:
        first = rng.choice((_ask_and_tell, _ask_and_tell, _ask_none))
        messages = first(rng, split, language, effort, tools)
    messages += ask(rng, split, language, effort, tools)
    offered = tuple(tool.definition() for tool in tools)
    return Document(task, language, effort, messages, offered)


def _offer(rng: Random, split: Split) -> list[Tool]:
    words = WORDS[split]
    offers = OFFERS[split]
    count = rng.choices(range(1, len(offers) + 1), offers)[0]
    nouns: dict[str, None] = {}
    while len(nouns) < count:
        nouns[draw_word(rng, split, words.nouns)] = None
    return [Tool(rng.choice(VERBS), noun, _draw_arguments(rng, split)) for noun in nouns]


def _draw_arguments(rng: Random, split: Split) -> tuple[tuple[str, Kind], ...]:
    names = WORDS[split].arguments
    kinds = rng.sample(list(names), rng.choice((1, 1, 2)))
    return tuple((draw_word(rng, split, names[kind]), kind) for kind in kinds)


def draw_word(rng: Random, split: Split, words: Sequence[str]) -> str:
    """A word of a list; to teach, a made-up one more often. Never one that is held out."""
    while split == "train" and rng.random() < MADE_UP_SHARE:
        word = _mixed(rng, words) if rng.random() < MIXED_SHARE else _pieced(rng, words)
        if belongs(split, word, every=HELD_OUT_EVERY):
            return word
    return rng.choice(words)


def _mixed(rng: Random, words: Sequence[str]) -> str:
    head, tail = rng.sample(words, 2)
    return head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :]


def _pieced(rng: Random, words: Sequence[str]) -> str:
    """Pieces of the vocabulary, written as the list's words are.

    A word after a blank and the same word in quotation marks are other tokens: which stand for
    which must be learned for the whole vocabulary, or new words are not copied.
    """
    word = "".join(rng.choices(PIECES, k=rng.choice((1, 2, 2, 3))))
    return word.title() if words[0].istitle() else word


def _draw_call(rng: Random, split: Split, tool: Tool) -> Call:
    words = WORDS[split]
    values: dict[str, Any] = {}
    for name, kind in tool.arguments:
        if kind == "integer":
            values[name] = rng.randint(*INTEGERS)
            continue
        values[name] = draw_word(rng, split, words.values[kind])
        if kind == "thing" and rng.random() < 1 / 2:
            values[name] = f"{draw_word(rng, split, words.qualities)} {values[name]}"
    return Call(tool.name, values)


def _spoken(call: Call, *, is_quoted: bool) -> str:
    pairs = (
        f'{name} "{value}"' if is_quoted and isinstance(value, str) else f"{name} {value}"
        for name, value in call.arguments.items()
    )
    return ", ".join(pairs)


def _shared_frames() -> frozenset[str]:
    """Sentences around a tool that are the same in several languages: "{act}: {args}."."""
    languages: Counter[str] = Counter()
    for language in LANGUAGES:
        languages.update(
            {"".join(f) for f in product(OPENERS[language], ASK[language], CLOSERS[language])}
        )
    return frozenset(frame for frame, count in languages.items() if count > 1)


SHARED_FRAMES: Final = _shared_frames()


def _user(
    rng: Random, split: Split, language: Language, tool: Tool, args: str, *, tells_language: bool
) -> Message:
    """``tells_language`` is needed where the answer is in words and not a call alone."""
    while True:
        frame = phrase(rng, split, language, ASK, act="{act}", args="{args}")
        if not (tells_language and frame in SHARED_FRAMES):
            return Message("user", frame.format(act=tool.act, args=args))


def _answer(effort: Effort, calls: Sequence[Call], tools: Sequence[Tool]) -> Message:
    thinking = _checked([call.name for call in calls], tools) if effort == "high" else ""
    return Message("assistant", thinking=thinking, calls=tuple(calls))


def _checked(wanted: Sequence[str], tools: Sequence[Tool]) -> str:
    """The names asked for, as a tool would be called, then every tool on offer: is it one?"""
    checks = (f"{tool.name} {'yes' if tool.name in wanted else 'no'}" for tool in tools)
    return f"{', '.join(wanted)}: {', '.join(checks)}"


def _ask_one(
    rng: Random,
    split: Split,
    language: Language,
    effort: Effort,
    tools: Sequence[Tool],
    *,
    tells_language: bool = False,
) -> tuple[Message, ...]:
    tool = rng.choice(tools)
    call = _draw_call(rng, split, tool)
    args = _spoken(call, is_quoted=rng.random() < QUOTED_SHARE)
    user = _user(rng, split, language, tool, args, tells_language=tells_language)
    return user, _answer(effort, (call,), tools)


def _ask_two(
    rng: Random, split: Split, language: Language, effort: Effort, tools: Sequence[Tool]
) -> tuple[Message, ...]:
    is_quoted = rng.random() < QUOTED_SHARE
    if len(tools) == 1 or rng.random() < 1 / 2:
        first = second = rng.choice(tools)
    else:
        first, second = rng.sample(tools, 2)
    calls = (_draw_call(rng, split, first), _draw_call(rng, split, second))
    while calls[0] == calls[1]:  # nobody asks for the same twice
        calls = (calls[0], _draw_call(rng, split, second))
    spoken = [_spoken(call, is_quoted=is_quoted) for call in calls]
    joint = f" {AND[language]} " if first is second else f"; {second.act}: "
    user = _user(rng, split, language, first, joint.join(spoken), tells_language=False)
    return user, _answer(effort, calls, tools)


def _ask_none(
    rng: Random, split: Split, language: Language, effort: Effort, tools: Sequence[Tool]
) -> tuple[Message, ...]:
    thinking = "none"
    if rng.random() < 1 / 2:
        user = Message("user", phrase(rng, split, language, SMALL_TALK))
    else:
        taken = {tool.noun for tool in tools}
        while (missing := _offer(rng, split)[0]).noun in taken:
            pass
        args = _spoken(_draw_call(rng, split, missing), is_quoted=rng.random() < QUOTED_SHARE)
        user = _user(rng, split, language, missing, args, tells_language=True)
        thinking = _checked([missing.name], tools)
    thinking = thinking if effort == "high" else ""
    return user, Message("assistant", NO_TOOL[language], thinking=thinking)


def _ask_and_tell(
    rng: Random, split: Split, language: Language, effort: Effort, tools: Sequence[Tool]
) -> tuple[Message, ...]:
    user, called = _ask_one(rng, split, language, effort, tools, tells_language=True)
    key = called.calls[0].name.split("_")[1]
    value: Any = draw_word(rng, split, WORDS[split].states)
    if rng.random() < 1 / 2:
        value = rng.randint(*INTEGERS)
    result = Message("tool", json.dumps({key: value}))
    told = RESULT[language].format(key=key, value=value)
    thinking = key if effort == "high" else ""
    return user, called, result, Message("assistant", told, thinking=thinking)
