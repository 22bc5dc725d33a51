"""Shards and gateways as they report themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from galerne.ids import Epoch
from router.engine.load_counter import LoadTotals

HEARTBEAT_S = 1.0
GONE_AFTER_S = 5.0  # without a heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a part says of itself."""

    part: str
    address: str
    pid: int
    node: str
    epochs: tuple[Epoch, ...] = ()  # that it serves
    links: Mapping[str, str] = field(default_factory=dict)  # of a gateway: state by shard
    load: LoadTotals | None = None  # of a gateway
    adapters: frozenset[str] = frozenset()  # ids of those that it has

    @property
    def process(self) -> tuple[str, int, str]:
        """Which process it is; containers may have the same pid."""
        return (self.part, self.pid, self.node)


@dataclass(slots=True)
class Member:
    """A part that has reported."""

    told: Heartbeat
    heard_s: float
    restarts: int = 0


class MemberBook:
    """Implements ``Registry``."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._replaced: set[tuple[str, int, str]] = set()
        self.failures: dict[str, str] = {}  # why a part cannot start
        self.members: dict[str, Member] = {}

    def hear(self, told: Heartbeat) -> bool:
        """Take in a heartbeat. Whether its process may go on.

        One that was replaced may not: while a network was cut, Ray has started it on another node.
        """
        if told.process in self._replaced:
            return False
        known = self.members.get(told.part)
        self.failures.pop(told.part, None)
        if known is None:
            self.members[told.part] = Member(told, self._now_s())
            return True
        if known.told.process != told.process:
            self._replaced.add(known.told.process)
            known.restarts += 1
        known.told, known.heard_s = told, self._now_s()
        return True

    def failed(self, part: str, reason: str) -> None:
        """A part cannot start."""
        self.failures[part] = reason

    def forget(self, part: str) -> None:
        """A part has been ended for good."""
        known = self.members.pop(part, None)
        if known is not None:
            self._replaced.add(known.told.process)  # a last heartbeat may still be on its way
        self.failures.pop(part, None)

    def address_of(self, part: str) -> str | None:
        """Where a part listens, if it has said so lately."""
        return self.members[part].told.address if self.is_live(part) else None

    def is_live(self, part: str) -> bool:
        """See ``Registry``."""
        member = self.members.get(part)
        return member is not None and self._now_s() - member.heard_s < GONE_AFTER_S

    def failure_of(self, part: str) -> str | None:
        """See ``Registry``."""
        return self.failures.get(part)

    def epochs_of(self, part: str) -> Collection[Epoch]:
        """See ``Registry``."""
        member = self.members.get(part)
        return () if member is None else member.told.epochs
