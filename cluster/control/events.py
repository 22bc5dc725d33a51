"""What has happened to the cluster, for people."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from router.api.cluster_port import EventFacts

logger = logging.getLogger(__name__)

_MAX_EVENTS = 1000


class EventLog:
    """The latest events, numbered from 1."""

    def __init__(self, on_event: Callable[[str, str], None] = lambda kind, part: None) -> None:
        """``on_event(kind, part)`` hears every event."""
        self._on_event = on_event
        self._events: deque[EventFacts] = deque(maxlen=_MAX_EVENTS)
        self._number = 0

    def add(self, kind: str, part: str, text: str = "") -> None:
        """Note an event, and log it. ``kind`` is in snake case and stays the same for ever."""
        self._number += 1
        self._on_event(kind, part)
        self._events.append(
            EventFacts(number=self._number, time_s=time.time(), kind=kind, part=part, text=text)
        )
        logger.warning("cluster_event kind=%s part=%s text=%s", kind, part, text)

    def after(self, number: int) -> list[EventFacts]:
        """Events with a higher number, oldest first."""
        return [event for event in self._events if event.number > number]
