"""Where a repeated run first differs from its record. Pure, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from router.gateway.record_events import Event, RecordLine

_NOUNS = {
    "entries": "plan entry",
    "preempted": "preempted choice",
    "outcomes": "result",
    "ended": "ended choice",
    "choices": "preempted choice",
}
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that came out otherwise."""

    line: int  # of the record's file of events
    step: int
    what: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return (
            f"step {self.step} (line {self.line}): {self.what}: "
            f"recorded {self.recorded}, replayed {self.replayed}"
        )


def difference_at(line: RecordLine, what: str, recorded: str, replayed: str) -> Difference:
    """A difference that belongs to a line of the record."""
    return Difference(
        line=line.number, step=line.step, what=what, recorded=recorded, replayed=replayed
    )


def first_difference(line: RecordLine, replayed: Event | None) -> Difference | None:
    """How what came differs from the line's event, or None if it does not."""
    recorded = line.event
    if recorded == replayed:
        return None
    if type(recorded) is not type(replayed):
        return difference_at(line, "event", _event_text(recorded), _event_text(replayed))
    for name in recorded.__slots__:
        ours, theirs = getattr(recorded, name), getattr(replayed, name)
        if ours == theirs:
            continue
        if not isinstance(ours, tuple):
            return difference_at(line, name, repr(ours), repr(theirs))
        pairs = enumerate(zip_longest(ours, theirs))
        place, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        return difference_at(line, f"{_NOUNS[name]} {place}", _item_text(one), _item_text(other))
    raise AssertionError("events that differ have a field that differs")


def _event_text(event: Event | None) -> str:
    if event is None:
        return _NOTHING
    reason = getattr(event, "reason", "")
    return type(event).__name__.lower() + (f" ({reason})" if reason else "")


def _item_text(item: object) -> str:
    return _NOTHING if item is None else repr(item)
