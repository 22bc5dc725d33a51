"""From what someone wishes to the change of topology that brings it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from cluster.control.balancer import Balancer
from cluster.control.conductor import ChangeRefusedError, TopologyConductor
from cluster.control.events import EventLog
from cluster.control.members import MemberBook
from cluster.control.standing import Spread
from cluster.control.target import check_alone, config_of, next_topology
from cluster.presets import PresetInputs
from galerne.errors import ConfigError, GalerneError, InvalidRequestError
from galerne.ids import ShardId
from galerne.topology import Topology
from router.api.cluster_port import TopologyWish

logger = logging.getLogger(__name__)


class Changes:
    """Knows the settings that the topology was built from. Belongs to one event loop."""

    def __init__(
        self,
        inputs: PresetInputs,
        conductor: TopologyConductor,
        members: MemberBook,
        balancer: Balancer,
        events: EventLog,
    ) -> None:
        self._inputs = inputs
        self._conductor = conductor
        self._members = members
        self._balancer = balancer
        self._events = events
        self.spread: Spread | None = None  # of what serves, or of the change that goes on
        self.used_ids = set(conductor.current.parts)  # a new part has an id that none had before
        self._tasks: set[asyncio.Task[None]] = set()

    def recovered(self, spread: Spread | None) -> None:
        """The topology that serves was learnt from the parts: settings follow it."""
        self.spread = spread
        config = config_of(self._conductor.current, self._inputs.config)
        self._inputs = self._inputs.with_config(config)

    async def begin(self, wish: TopologyWish) -> None:
        """Begin a change; it goes on by itself.

        Raises:
            ChangeRefusedError: One goes on, or parts are away.
            InvalidRequestError: The wish contradicts itself; names the field.
        """
        inputs, target = await self._checked(wish)
        if not (wish.rebalance or wish.replace_shard):
            self.spread = None
        task = asyncio.create_task(self._go_on(target, inputs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(0)  # it has begun
        if target not in (self._conductor.target, self._conductor.current):
            self._conductor.check(target)  # another was quicker

    async def carry_out(self, wish: TopologyWish, spread: Spread) -> None:
        """The same to its end, on so many machines.

        Shards that are to leave the gateways' machines, or to come there, are new ones: those that
        stay in a topology stay where they run.

        Raises:
            GalerneError: It was refused or undone.
        """
        before = self.spread
        moves = before is not None and bool(before.shard_nodes) != bool(spread.shard_nodes)
        inputs, target = await self._checked(wish, moves_shards=moves)
        self.spread = spread
        try:
            await self.change(target, inputs)
        finally:
            if self._conductor.current is not target:
                self.spread = before

    async def change(self, target: Topology, inputs: PresetInputs) -> None:
        """Change to what these settings gave."""
        try:
            await self._conductor.change(target)
        finally:
            if self._conductor.current is target:
                self._inputs = inputs

    def shards_by_node(self) -> dict[str, list[ShardId]]:
        """Where the shards run, as far as is known."""
        nodes: dict[str, list[ShardId]] = {}
        for shard in self._conductor.current.shard_processes:
            member = self._members.members.get(shard)
            nodes.setdefault(member.told.node if member else "unknown", []).append(shard)
        return nodes

    async def _go_on(self, target: Topology, inputs: PresetInputs) -> None:
        try:
            await self.change(target, inputs)
        except GalerneError as error:
            logger.warning("topology_change_failed epoch=%d reason=%s", target.epoch, error)

    async def _checked(
        self, wish: TopologyWish, *, moves_shards: bool = False
    ) -> tuple[PresetInputs, Topology]:
        with named_fields():
            inputs, target = await self._target(wish, moves_shards)
        self._conductor.check(target)
        self.used_ids.update(target.parts)
        return inputs, target

    async def _target(
        self, wish: TopologyWish, moves_shards: bool
    ) -> tuple[PresetInputs, Topology]:
        current, is_asleep = self._conductor.current, self._conductor.is_asleep
        if not wish.rebalance:
            staying: tuple[str, ...] = () if is_asleep else current.gateways
            if not (is_asleep or moves_shards):
                staying += current.shard_processes
            return next_topology(current, self._inputs, wish, self.used_ids, staying)
        check_alone(wish, "rebalance")
        if not current.shard_processes:
            raise ChangeRefusedError("there are no shards to balance")
        await self._balancer.look()
        plan = await asyncio.to_thread(self._balancer.propose, self.shards_by_node())
        self._events.add("rebalance", "controller", plan.verdict.reason)
        if not plan.verdict.is_worth:
            raise ChangeRefusedError(f"rebalancing {plan.verdict.reason}")
        return self._inputs, plan.target


@contextlib.contextmanager
def named_fields() -> Iterator[None]:
    """A setting that is wrong is a field of the request."""
    try:
        yield
    except ConfigError as error:
        problem = f"{error.problem}, got {error.value}"
        raise InvalidRequestError(error.key, problem) from error
