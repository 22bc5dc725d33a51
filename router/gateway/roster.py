"""Who serves, and where to ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from galerne.adapters import AdapterInfo
from router.engine.gateway_port import PartFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who serves, as the controller knows it."""

    mode: str = ""
    epoch: int = 0
    transport: str = ""
    micro_batches: int = 1
    max_num_seqs: int = 0
    max_batched_tokens: int = 0
    parts: tuple[PartFacts, ...] = ()  # with more than addresses when asked for with metrics
    is_settled: bool = True  # false while a restarted controller may not know everyone yet
    pause: str = ""  # why no gateway serves though nothing is wrong: asleep, or starting after that
    stalled: str = ""  # loops of the controller that have stopped
    adapters: tuple[AdapterInfo, ...] = ()  # that every gateway has
    gateways: dict[str, str] = field(default_factory=dict)  # id -> address
    shards: dict[str, str] = field(default_factory=dict)
    process_metrics: dict[str, bytes] = field(default_factory=dict)


class Directory(Protocol):
    """Where to ask for the roster. Errors are the caller's: the last roster is kept."""

    async def roster(self, *, with_metrics: bool = False) -> Roster:
        """The roster now."""
        ...

    async def demand(self, num_held: int) -> None:
        """So many requests wait here for a gateway: wakes a cluster that is asleep."""
        ...
