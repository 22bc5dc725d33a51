"""Asks Ray for nodes, so that its autoscaler (KubeRay's too) brings them and takes them back.

A request is a placement group with a bundle for every node of the wanted shape: strictly spread,
each with a small claim and the role's label. Ray's autoscaler starts what the group lacks, and the
group keeps the nodes until parts run on them. Parts do not run inside it: their own claims of CPUs,
beside the group's, keep a node from being idle just as well. So the group goes when a change ends.
It is a request and not a lease: nobody has to move parts into another group at the next change, a
part may come back on any node when its own is lost, and a node is kept exactly as long as a part is
on it. A group that stayed would hold nodes of Ray's choice, not those where the parts are.

Groups are not detached: they end with the driver and its controller at the latest. One that starts
anew removes what the last one has left; no change waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from cluster.control.events import EventLog
from cluster.node_kinds import NodeKind, roles_to_ask
from cluster.nodes import Node, Role, choose_nodes

logger = logging.getLogger(__name__)

T = TypeVar("T")

TURN_S = 1.0  # while nodes are asked for
_IDLE_TURN_S = 5.0
_CALL_TIMEOUT_S = 10.0


class Shape(NamedTuple):
    """Nodes that are wanted; gateways and shards on different ones."""

    gateway_nodes: int
    shard_nodes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is."""

    nodes: Sequence[Node]
    groups: frozenset[str]  # names of ours


class Groups(Protocol):
    """Placement groups of one deployment. Calls block, and raise whatever Ray does."""

    def look(self) -> Seen:
        """Nodes that live, and groups that are there, placed or not."""
        ...

    def create(self, name: str, roles: Sequence[Role | None]) -> None:
        """Ask for a node with each of these labels; None: with no role. Returns at once."""
        ...

    def remove(self, name: str) -> None:
        """Ask no longer; nothing, if there is no such group."""
        ...


class NodeRequests:
    """A ``NodeSource``: a loop that makes Ray's groups what is wanted. Belongs to one event loop.

    It calls Ray from a thread of its own, one call at a time: while Ray's head is away they hang.
    """

    def __init__(
        self, name: str, groups: Groups, kinds: Sequence[NodeKind], events: EventLog
    ) -> None:
        """``name``: of the groups, as ``groups`` knows them; ``kinds``: nodes that can come."""
        self._name = name
        self._groups = groups
        self._kinds = tuple(kinds)
        self._events = events
        self._wanted: Shape | None = None
        self._group = ""  # name of the group of ``_wanted``; a request has a name of its own
        self._seen = Seen((), frozenset())
        self._seen_for = ""  # the group's name when that look began
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nodes")
        self._call: Future[Any] | None = None  # the last one
        self._woken = asyncio.Event()
        self.turns = 0  # of the loop, for those who watch it

    @property
    def nodes(self) -> Sequence[Node]:
        """Nodes that live, as last seen."""
        return self._seen.nodes

    @property
    def num_nodes(self) -> int:
        """Of these, those that parts can be on."""
        return sum(node.num_cpus > 0 for node in self._seen.nodes)

    @property
    def num_pending(self) -> int:
        """Nodes that were asked for and are not there; above 0 until that has been looked up."""
        if self._wanted is None:
            return 0
        missing = _num_missing(self._wanted, self._seen.nodes)
        return missing if self._seen_for == self._group else max(missing, 1)

    def ask(self, gateway_nodes: int, shard_nodes: int) -> None:
        """As ``NodeSource``. Where present nodes suffice, Ray is asked for nothing.

        Raises:
            ValueError: A number is below 0.
        """
        shape = Shape(gateway_nodes, shard_nodes)
        if min(shape) < 0:
            raise ValueError(f"gateway_nodes and shard_nodes must be at least 0, got {shape}")
        if shape != self._wanted:
            self._want(shape)

    def give_up(self) -> None:
        """As ``NodeSource``."""
        if self._wanted is not None:
            self._want(None)

    def _want(self, shape: Shape | None) -> None:
        self._wanted = shape
        self._group = f"{self._name}-{secrets.token_hex(4)}"
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self.turns += 1
                self._woken.clear()
                try:
                    await self._turn()
                except Exception as error:  # noqa: BLE001 - border to Ray: its head is away
                    logger.warning("node_request_failed reason=%r", error)
                busy = self._wanted is not None or self._seen.groups
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TURN_S if busy else _IDLE_TURN_S):
                        await self._woken.wait()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _turn(self) -> None:
        """Look, and take the steps from what is there to what is wanted."""
        group, wanted, before = self._group, self._wanted, self.num_pending
        self._seen = await self._in_thread(self._groups.look)
        self._seen_for = group
        if wanted is not None and before and not self.num_pending:
            self._events.add("nodes_there", "controller", f"nodes={self.num_nodes}")
        for name in sorted(self._seen.groups - {group if wanted else ""}):
            await self._in_thread(self._groups.remove, name)
            self._events.add("nodes_let_go", "controller", f"group={name}")
        if wanted is None or group in self._seen.groups:
            return
        roles = roles_to_ask(self._seen.nodes, self._kinds, *wanted)
        if roles is not None and group == self._group:
            await self._in_thread(self._groups.create, group, roles)
            text = f"gateway_nodes={wanted.gateway_nodes} shard_nodes={wanted.shard_nodes}"
            self._events.add("nodes_asked", "controller", f"{text} missing={self.num_pending}")

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        if self._call is not None and not self._call.done():
            raise TimeoutError("Ray still owes the answer to an earlier call")
        running = self._thread.submit(call, *args)
        self._call = running
        return await asyncio.wait_for(asyncio.wrap_future(running), _CALL_TIMEOUT_S)


def _num_missing(shape: Shape, nodes: Sequence[Node]) -> int:
    chosen = choose_nodes(nodes, *shape)
    return chosen.missing_gateways + chosen.missing_shards
