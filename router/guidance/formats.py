"""What an answer shall look like, as a client asks for it: values, and their checks. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from galerne.errors import InvalidRequestError

MAX_GRAMMAR_CHARS = 1 << 18
MAX_NESTING = 64  # of a schema, or of brackets in a grammar: parsers recurse
MAX_CHOICES = 4096

JSON_OBJECT: Mapping[str, Any] = {"type": "object"}


class FormatKind(enum.Enum):
    """How a format is written."""

    JSON = "json"  # a JSON schema
    REGEX = "regex"
    CHOICE = "choice"  # one of several strings
    GRAMMAR = "grammar"  # Lark, or GBNF


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """A format of the whole answer; reasoning and tool calls stand beside it."""

    kind: FormatKind
    field: str  # of the request, for refusals
    schema: Mapping[str, Any] | None = None  # JSON
    text: str = ""  # REGEX and GRAMMAR
    choices: tuple[str, ...] = ()
    is_lenient: bool = False  # JSON: parts of the schema that cannot be enforced are ignored


def schema_format(schema: object, field: str, *, is_lenient: bool = False) -> OutputFormat:
    """The format of a JSON schema.

    Raises:
        InvalidRequestError: It is no object, or is nested too deeply.
    """
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(field, "must be a JSON schema: an object")
    check_nesting(schema, field)
    return OutputFormat(kind=FormatKind.JSON, field=field, schema=schema, is_lenient=is_lenient)


def text_format(kind: FormatKind, text: object, field: str) -> OutputFormat:
    """The format of a regular expression or a grammar.

    Raises:
        InvalidRequestError: It is no text, empty, too long, or nested too deeply.
    """
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(field, "must be a string that is not empty")
    check_length(text, field)
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise InvalidRequestError(field, f"is nested more than {MAX_NESTING} deep")
    return OutputFormat(kind=kind, field=field, text=text)


def choice_format(choices: object, field: str) -> OutputFormat:
    """The format of one of several strings.

    Raises:
        InvalidRequestError: It is no list of strings, or a string is empty.
    """
    if not isinstance(choices, Sequence) or isinstance(choices, str | bytes):
        raise InvalidRequestError(field, "must be a list of strings")
    if not 1 <= len(choices) <= MAX_CHOICES:
        problem = f"must hold 1 to {MAX_CHOICES} strings, got {len(choices)}"
        raise InvalidRequestError(field, problem)
    for index, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            raise InvalidRequestError(f"{field}[{index}]", "must be a string that is not empty")
    return OutputFormat(kind=FormatKind.CHOICE, field=field, choices=tuple(choices))


def check_length(text: str, field: str) -> None:
    """Refuse a grammar's text that is too long.

    Raises:
        InvalidRequestError: Names ``field``.
    """
    if len(text) > MAX_GRAMMAR_CHARS:
        problem = f"has {len(text)} characters, at most {MAX_GRAMMAR_CHARS} are allowed"
        raise InvalidRequestError(field, problem)


def check_nesting(value: object, field: str) -> None:
    """Refuse a JSON value that is nested too deeply for parsers that recurse.

    Raises:
        InvalidRequestError: Names ``field``.
    """
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        level = [part for inner in level for part in _parts(inner)]
        if not level:
            return
    raise InvalidRequestError(field, f"is nested more than {MAX_NESTING} deep")


def _parts(value: object) -> Iterable[object]:
    match value:
        case Mapping():
            return value.values()
        case list() | tuple():
            return value
    return ()
