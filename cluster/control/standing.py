"""What parts shall run, and what a controller that starts anew cannot learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from galerne.adapters import AdapterInfo
from galerne.topology import Topology


class Spread(NamedTuple):
    """Machines that a topology takes; gateways and shards on different ones."""

    gateway_nodes: int
    shard_nodes: int  # 0: shards run beside the gateways


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Kept by the driver, who outlives the controller: gateways may be away together with it."""

    topology: Topology  # that serves; who is to come has a higher epoch
    is_asleep: bool = False  # scaled to zero: that no part lives is right
    spread: Spread | None = None  # of it; None: as parts fit
    is_auto: bool = False  # the autoscaler chooses the topology
    adapters: tuple[AdapterInfo, ...] = ()  # that every part loads before it serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the driver shall start and keep."""

    parts: Mapping[str, Topology]  # and the topology that each starts in
    standing: Standing
    spread: Spread | None = None  # of the new parts
    log_level: str | None = None  # of the driver; None: as it began
