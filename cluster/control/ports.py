"""What the control loops need of the world: calls to parts, and who is alive."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from galerne.adapters import AdapterInfo
from galerne.ids import Epoch
from galerne.topology import Topology


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a gateway says of itself."""

    topology: Topology
    num_requests: int
    unready_reason: str = ""


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What a shard has computed since its start."""

    expert_rows: npt.NDArray[np.int64]  # [layers * experts]
    compute_seconds: float


class PartCalls(Protocol):
    """Calls to shards and gateways. Each may be repeated, and raises PartFailedError."""

    async def adopt(self, shard: str, experts: Iterable[tuple[int, int]], timeout_s: float) -> None:
        """Hold exactly these experts for lost shards."""
        ...

    async def prepare_epoch(
        self, shard: str, epoch: Epoch, experts: Iterable[tuple[int, int]], timeout_s: float
    ) -> None:
        """Hold what an epoch places there, and serve it."""
        ...

    async def retire_epochs(self, shard: str, keep: Collection[Epoch], timeout_s: float) -> None:
        """Serve no epochs but these."""
        ...

    async def prepare_topology(self, gateway: str, topology: Topology, timeout_s: float) -> None:
        """Have a topology ready."""
        ...

    async def shadow(self, gateway: str, epoch: Epoch, timeout_s: float) -> int:
        """Compare the bits of a prepared topology with those that serve; rows compared."""
        ...

    async def commit(self, gateway: str, epoch: Epoch, timeout_s: float) -> None:
        """Serve a prepared topology."""
        ...

    async def abort(self, gateway: str, epoch: Epoch, timeout_s: float) -> None:
        """Forget a prepared topology."""
        ...

    async def load_adapter(self, part: str, wanted: AdapterInfo, timeout_s: float) -> AdapterInfo:
        """Have an adapter; what the part says of it."""
        ...

    async def unload_adapter(
        self, part: str, adapter_id: str, deadline_s: float, timeout_s: float
    ) -> None:
        """Have it no longer; a gateway waits for requests until the deadline."""
        ...

    async def load_of(self, shard: str, timeout_s: float) -> ShardLoad:
        """What a shard has computed."""
        ...

    async def state_of(self, gateway: str, timeout_s: float) -> GatewayState:
        """What a gateway serves, and for how many requests."""
        ...


class Registry(Protocol):
    """Who lives, as far as heartbeats tell."""

    def is_live(self, part: str) -> bool:
        """Whether a part has reported lately."""
        ...

    def failure_of(self, part: str) -> str | None:
        """Why a part cannot start, if it has said so."""
        ...

    def epochs_of(self, part: str) -> Collection[Epoch]:
        """The epochs that a part serves, as it last said."""
        ...


class Loop(Protocol):
    """A loop of the controller, for those who watch it."""

    turns: int

    async def run(self) -> None:
        """Until cancelled."""
        ...


class NodeSource(Protocol):
    """Who brings nodes and takes them back. No call waits for anything."""

    @property
    def num_nodes(self) -> int:
        """Nodes that parts can be on, as last seen; 0 before the first look."""
        ...

    @property
    def num_pending(self) -> int:
        """Nodes that were asked for and are not there; above 0 until that has been looked up."""
        ...

    def ask(self, gateway_nodes: int, shard_nodes: int) -> None:
        """Have so many nodes for gateways and so many others for shards, in place of what was asked
        for before.
        """
        ...

    def give_up(self) -> None:
        """Ask for nothing any more.

        Both for nodes that do not come and when the parts of a change run: from then on it is these
        that keep their nodes. Those without any are taken back.
        """
        ...
