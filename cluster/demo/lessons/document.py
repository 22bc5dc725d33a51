"""What a lesson is made of: a conversation whose last answer is known.

The same documents teach (every assistant message is a target) and test (the last assistant message
is asked for through the API and compared).
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Language = Literal["en", "fr", "de", "nl", "es", "it"]
Effort = Literal["none", "high"]
Split = Literal["train", "test"]
Role = Literal["system", "user", "assistant", "tool"]

NOTE_SHARE = 1 / 4
LANGUAGES: tuple[Language, ...] = ("en", "fr", "de", "nl", "es", "it")


class Picture(Protocol):
    """Something that can be drawn."""

    def pixels(self) -> npt.NDArray[np.uint8]:
        """``[height, width, 3]`` RGB; both sides are multiples of 28."""


class Call(NamedTuple):
    """One tool call of an assistant message."""

    name: str
    arguments: Mapping[str, Any]


class Message(NamedTuple):
    """One message. ``thinking`` and ``calls`` belong to the assistant, ``picture`` to the user."""

    role: Role
    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    picture: Picture | None = None


class Document(NamedTuple):
    """A conversation. Ends with an assistant message, the one that a test grades.

    ``tools`` are OpenAI function tools: ``{"type": "function", "function": {"name": ...,
    "description": ..., "parameters": {JSON schema}}}``.
    """

    task: str
    language: Language
    effort: Effort
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


class Lesson(Protocol):
    """Draws a conversation of one task."""

    def __call__(
        self, rng: Random, split: Split, language: Language, /, *, effort: Effort | None = None
    ) -> Document:
        """Depends on the arguments alone. ``effort`` None leaves it to the lesson."""


def wants_thinking(rng: Random, effort: Effort | None, share: float) -> bool:
    """Whether a document has thinking: as ``effort`` says, else in ``share`` of the cases.

    Draws even if the effort is forced, so that a seed gives the same question either way.
    """
    drawn = rng.random() < share
    return drawn if effort is None else effort == "high"


def wants_note(rng: Random, split: Split, effort: Effort | None) -> bool:
    """``wants_thinking`` of lessons that have a note now and then in train, and none in test."""
    return wants_thinking(rng, effort, NOTE_SHARE if split == "train" else 0.0)


def single_turn(
    task: str,
    language: Language,
    question: str,
    answer: str,
    *,
    thinking: str = "",
    picture: Picture | None = None,
) -> Document:
    """One question and its answer; effort is high exactly if there is thinking."""
    return Document(
        task,
        language,
        "high" if thinking else "none",
        (
            Message("user", question, picture=picture),
            Message("assistant", answer, thinking=thinking),
        ),
    )
