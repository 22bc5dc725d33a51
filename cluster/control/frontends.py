"""Who the frontends are, and what they are ordered to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from router.api.peers import DrainFacts, DrainOrder, FrontendNews, FrontendOrders

GONE_AFTER_S = 5.0  # they tell every second


class FrontendBook:
    """What frontends have told lately. Rebuilt after a restart from what they tell next."""

    def __init__(
        self,
        now_s: Callable[[], float] = time.monotonic,
        on_event: Callable[[str, str], object] = lambda _kind, _name: None,
    ) -> None:
        """``on_event`` is told ``frontend_joined`` or ``frontend_left``, and of whom."""
        self._now_s, self._on_event = now_s, on_event
        self._news: dict[str, tuple[FrontendNews, float]] = {}
        self._numbers: dict[str, int] = {}
        self._order = ""  # the newest; "": none
        self._end_s = 0.0
        self._known: set[str] = set()  # orders that were given

    @property
    def num_live(self) -> int:
        """Frontends that have told lately."""
        self._forget_gone()
        return len(self._news)

    def hear(self, frontend: str, news: FrontendNews) -> FrontendOrders:
        """What a frontend tells of itself; what it is to know."""
        self._forget_gone()
        if news.drained and not self._order:
            self._give(news.drained, 0.0)  # before we were restarted
        self._news[frontend] = news, self._now_s()
        if frontend not in self._numbers:
            self._numbers[frontend] = self._free_number(news.number)
            self._on_event("frontend_joined", _name(self._numbers[frontend]))
        others = [told for f, (told, _) in self._news.items() if f != frontend]
        return FrontendOrders(
            number=self._numbers[frontend],
            drain=self._current_order(),
            has_others=bool(others),
            num_silent=sum(not told.metrics for told in others),
        )

    def drain(self, order: str, deadline_s: float) -> DrainFacts:
        """Order it once, under an id of the caller's; how far the newest order has come."""
        self._forget_gone()
        if order not in self._known:
            self._give(order, deadline_s)
        everyone = [news for news, _ in self._news.values()]
        done = [news for news in everyone if news.drained == self._order]
        return DrainFacts(
            running=sum(news.num_running for news in everyone),
            aborted=sum(news.num_aborted for news in done),
            is_done=bool(everyone) and len(done) == len(everyone),
        )

    def metrics(self) -> dict[str, bytes]:
        """Prometheus text of every frontend that lives and has told it, by its name."""
        self._forget_gone()
        told = {f: news.metrics for f, (news, _) in self._news.items() if news.metrics}
        return {_name(self._numbers[frontend]): text for frontend, text in told.items()}

    def _give(self, order: str, deadline_s: float) -> None:
        self._known.add(order)
        self._order, self._end_s = order, self._now_s() + deadline_s

    def _current_order(self) -> DrainOrder | None:
        if not self._order:
            return None
        return DrainOrder(id=self._order, seconds_left=max(0.0, self._end_s - self._now_s()))

    def _free_number(self, asked: int | None) -> int:
        taken = set(self._numbers.values())
        if asked is not None and asked not in taken:
            return asked
        return next(number for number in count() if number not in taken)

    def _forget_gone(self) -> None:
        gone_s = self._now_s() - GONE_AFTER_S
        for frontend in [f for f, (_, heard_s) in self._news.items() if heard_s < gone_s]:
            del self._news[frontend]
            self._on_event("frontend_left", _name(self._numbers.pop(frontend)))


def _name(number: int) -> str:
    return f"frontend-{number}"
