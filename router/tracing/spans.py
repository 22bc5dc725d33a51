"""Spans as plain values, before OpenTelemetry sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

Value: TypeAlias = str | bool | int | float | Sequence[str]


class SpanEvent(NamedTuple):
    """Something that happened at one moment."""

    name: str
    at_s: float
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SpanData:
    """Work of a time, and what it consisted of. Times are of the process' monotonic clock."""

    name: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Value] = field(default_factory=dict)
    children: Sequence[SpanData] = ()
    events: Sequence[SpanEvent] = ()
    shard: str = ""  # which did it; empty: whoever tells of it
    is_server: bool = False
    error: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


def within(span: SpanData, start_s: float, end_s: float) -> SpanData:
    """A span and all below it, cut to a time: clocks of two kinds differ by microseconds."""
    start = min(max(span.start_s, start_s), end_s)
    end = min(max(span.end_s, start), end_s)
    children = tuple(within(child, start, end) for child in span.children)
    return replace(span, start_s=start, end_s=end, children=children)


def nested(spans: Iterable[SpanData]) -> tuple[SpanData, ...]:
    """Spans of one thread, each below the shortest one that holds it. They begin without children
    of their own times: those that they have are kept.
    """
    roots: list[SpanData] = []
    stack: list[tuple[SpanData, list[SpanData]]] = []

    def close() -> None:
        span, below = stack.pop()
        whole = replace(span, children=(*span.children, *below))
        (stack[-1][1] if stack else roots).append(whole)

    for span in sorted(spans, key=lambda span: (span.start_s, -span.end_s)):
        while stack and not _holds(stack[-1][0], span):
            close()
        stack.append((span, []))
    while stack:
        close()
    return tuple(roots)


def _holds(outer: SpanData, inner: SpanData) -> bool:
    return outer.start_s <= inner.start_s and inner.end_s <= outer.end_s
