"""Stop strings in streamed text."""

from __future__ import annotations

from typing import NamedTuple


class StopResult(NamedTuple):
    """Text that may be sent, and whether a stop string ended it."""

    text: str
    is_stopped: bool


class StopMatcher:
    """Finds the first of several stop strings in text that comes in pieces.

    The match that counts is the one whose last character comes first; of several that end there,
    the longest. The text before it is what a client gets, with the match if ``include``. How the
    text is cut into pieces changes nothing.
    """

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._stops = stops
        self._include = include
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that was found, if one was."""
        return self._matched

    def push(self, text: str) -> StopResult:
        """Take the next piece; give what can no longer be part of a stop string.

        After a match everything is swallowed.
        """
        if self._matched is not None:
            return StopResult("", True)
        text = self._held + text
        found = self._first_match(text)
        if found is not None:
            end, stop = found
            self._matched, self._held = stop, ""
            return StopResult(text[: end if self._include else end - len(stop)], True)
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return StopResult(text[: len(text) - num_held], False)

    def finish(self) -> str:
        """The text held back, when no more will come."""
        text, self._held = self._held, ""
        return text

    def _first_match(self, text: str) -> tuple[int, str] | None:
        starts = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), -len(stop), stop) for start, stop in starts if start >= 0]
        if not ends:
            return None
        end, _, stop = min(ends)
        return end, stop

    def _num_held(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
