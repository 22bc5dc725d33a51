"""Where a client of a stream has got to, and what is new to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from galerne.errors import InvalidRequestError
from router.api.events import ChatDelta, Event, Finished, PromptLogprobs, TokensDelta

_EVENT_ID = re.compile(r"\d{1,9}\.\d{1,9}(,\d{1,9}\.\d{1,9})*")


class ResumePoint(NamedTuple):
    """How far a client got with one choice.

    ``events`` are the choice's parts since its last token: deltas of a chat, its end, or chunks.
    None: every part of the tokens below ``offset``, but not the end.
    """

    offset: int = 0  # that follows the last token
    events: int | None = None


class ResumeFilter:
    """Follows a stream from its start, token by token, and tells what a client has not had.

    A choice is the same sequence of parts at every frontend, so a place in it can be counted. What
    belongs to no choice is always new, but for the prompt's log probabilities.
    """

    def __init__(self, points: Sequence[ResumePoint], num_choices: int) -> None:
        """A choice without a point is new from its start.

        Raises:
            InvalidRequestError: There are more points than choices, or one is negative.
        """
        if len(points) > num_choices:
            problem = f"{len(points)} given, the request has {num_choices} choices"
            raise InvalidRequestError("points", problem)
        for choice, (offset, events) in enumerate(points):
            if offset < 0 or (events or 0) < 0:
                raise InvalidRequestError(f"points[{choice}]", "must not be negative")
        rest = [ResumePoint()] * (num_choices - len(points))
        # Nothing comes before the first token, so nothing of it can have been had.
        self._start = [p if p.offset else ResumePoint(0, p.events or 0) for p in (*points, *rest)]
        self._offsets = [0] * num_choices
        self._counts = [0] * num_choices

    @property
    def event_id(self) -> str:
        """The place now, for ``parse_event_id``."""
        places = zip(self._offsets, self._counts, strict=True)
        return ",".join(f"{offset}.{count}" for offset, count in places)

    def wants(self, event: Event) -> bool:
        """Take the next event of a stream; whether it is new."""
        match event:
            case TokensDelta(choice=choice, token_ids=token_ids) if token_ids:
                self.see_tokens(event)
                return self._offsets[choice] > self._start[choice].offset
            case TokensDelta(choice=choice) | ChatDelta(choice=choice):
                return self.wants_part(choice)
            case Finished(choice=choice):
                return self.wants_part(choice, is_end=True)
            case PromptLogprobs():
                return not any(point.offset for point in self._start)
        return True

    def see_tokens(self, tokens: TokensDelta) -> None:
        """Go on to the place after new tokens."""
        if tokens.token_ids:
            self._offsets[tokens.choice] += len(tokens.token_ids)
            self._counts[tokens.choice] = 0

    def wants_part(self, choice: int, *, is_end: bool = False) -> bool:
        """Take the next part of a choice since its last token; whether it is new."""
        self._counts[choice] += 1
        offset, events = self._start[choice]
        if self._offsets[choice] != offset:
            return self._offsets[choice] > offset
        return is_end if events is None else self._counts[choice] > events


def offsets_text(points: Iterable[ResumePoint]) -> str:
    """Token offsets that a client has got to, to be told."""
    return ", ".join(str(point.offset) for point in points)


def parse_event_id(text: str) -> list[ResumePoint]:
    """The place that an SSE ``id:`` names.

    Raises:
        InvalidRequestError: It is none of ours.
    """
    if not _EVENT_ID.fullmatch(text):
        raise InvalidRequestError("Last-Event-ID", "is no id of a chunk of this stream")
    places = [place.split(".") for place in text.split(",")]
    return [ResumePoint(int(offset), int(events)) for offset, events in places]


def parse_offsets(texts: Iterable[str]) -> list[ResumePoint]:
    """The next token of every choice.

    Raises:
        InvalidRequestError: One is no number.
    """
    points = []
    for text in texts:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise InvalidRequestError("offset", "must be the number of the next token")
        points.append(ResumePoint(int(text)))
    return points
