"""What the current call says of its trace, unread. No OpenTelemetry: whoever traces reads it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TypeAlias

Headers: TypeAlias = tuple[tuple[str, str], ...]

NAMES = ("traceparent", "tracestate")
_incoming: ContextVar[Headers] = ContextVar("incoming_trace", default=())


def note_incoming(headers: Iterable[tuple[str, str | bytes]]) -> None:
    """Keep what a call says of its trace, for its task; names are in lower case."""
    found = tuple((k, v) for k, v in headers if k in NAMES and isinstance(v, str))
    if found or _incoming.get():
        _incoming.set(found)


def incoming() -> Headers:
    """What the current call says of its trace."""
    return _incoming.get()
