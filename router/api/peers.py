"""What the frontends of a deployment tell its controller, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOrder:
    """Take no more requests; end those that still run after so many seconds."""

    id: str
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendNews:
    """How one frontend stands."""

    number: int | None = None  # it was given; None: none yet
    num_running: int = 0  # requests with a client
    drained: str = ""  # the last order that was carried out to its end
    num_aborted: int = 0  # by that order
    metrics: bytes = b""  # Prometheus text; none where nobody else would show it


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendOrders:
    """What a frontend is to know."""

    number: int  # small, its own while it lives: for names
    drain: DrainOrder | None = None
    log_level: str | None = None  # None: as it began
    has_others: bool = False  # other frontends live, which show what this one tells
    num_silent: int = 0  # of the others: have not told their metrics yet


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainFacts:
    """How far all frontends together have come with the newest order."""

    running: int
    aborted: int
    is_done: bool  # every one has carried it out


class NewsPort(Protocol):
    """The controller, for one frontend."""

    async def frontend_news(self, news: FrontendNews) -> FrontendOrders:
        """Tell how it stands.

        Raises:
            NotServingError: The controller does not answer.
        """
        ...
