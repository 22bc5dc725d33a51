"""What people who run the cluster may ask of it, wherever the controller runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyFacts:
    """The topology that serves, and the change that goes on; as ``galerne.v1.TopologyInfo``."""

    epoch: int
    mode: str
    gateways: Sequence[str] = ()
    shards: Sequence[str] = ()
    transport: str = ""
    replicas: int = 1
    max_num_seqs: int = 0
    max_batched_tokens: int = 0
    target_epoch: int = 0
    stage: str = "idle"
    last_error: str = ""
    availability: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyWish:
    """What shall be otherwise; as ``galerne.v1.SetTopologyRequest``. Unset: as it is."""

    mode: str | None = None
    shards: int | None = None
    gateways: int | None = None
    replicas: int | None = None
    transport: str | None = None
    micro_batches: int | None = None
    max_num_seqs: int | None = None
    max_batched_tokens: int | None = None
    replace_shard: str | None = None
    rebalance: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFacts:
    """One thing that happened; as ``galerne.v1.ClusterEvent``."""

    number: int
    time_s: float
    kind: str
    part: str
    text: str


class ClusterPort(Protocol):
    """The controller, or what stands for it. All raise NotServingError while it is away."""

    async def topology(self) -> TopologyFacts:
        """What serves."""
        ...

    async def set_topology(self, wish: TopologyWish) -> TopologyFacts:
        """Begin a change.

        Raises:
            GalerneError: It cannot begin; says why.
        """
        ...

    async def events(self, after: int) -> Sequence[EventFacts]:
        """What has happened since the event of that number."""
        ...
