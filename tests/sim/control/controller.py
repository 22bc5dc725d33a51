"""The controller: the real one, whose calls go over the simulated network."""

import asyncio
from types import SimpleNamespace

import numpy as np

from cluster.actors.controller import Controller
from cluster.control.changes import Changes
from cluster.control.conductor import ChangeConfig, Stage
from cluster.control.part_client import _ANSWER_S, PartFailedError
from cluster.control.ports import ShardLoad
from galerne.errors import GalerneError
from sim.control.engine import NUM_EXPERTS, NUM_LAYERS
from sim.control.network import CallError

RESTART_S = (0.3, 4.0)
CONFIG = ChangeConfig(
    start_s=40.0, prepare_s=40.0, link_s=30.0, shadow_s=30.0, commit_s=20.0, drain_s=15.0
)


class SimPartCalls:
    """Implements ``PartCalls`` as ``PartClients`` does."""

    members = None  # where parts listen

    def __init__(self, world):
        self._world = world

    async def adopt(self, shard, experts, timeout_s):
        held = frozenset(experts)
        await self._call(shard, "adopt", lambda server: server.adopt(held), timeout_s)

    async def prepare_epoch(self, shard, epoch, experts, timeout_s):
        placed = frozenset(experts)

        def serve(server):
            return server.prepare_epoch(epoch, placed)

        await self._call(shard, "prepare_epoch", serve, timeout_s)

    async def retire_epochs(self, shard, keep, timeout_s):
        kept = tuple(keep)

        def serve(server):
            return server.retire_epochs(kept)

        await self._call(shard, "retire_epochs", serve, timeout_s)

    async def prepare_topology(self, gateway, topology, timeout_s):
        def serve(server):
            return server.prepare_topology(topology, timeout_s)

        await self._call(gateway, "prepare_topology", serve, timeout_s + _ANSWER_S)

    async def shadow(self, gateway, epoch, timeout_s):
        return await self._call(gateway, "shadow", lambda server: server.shadow(epoch), timeout_s)

    async def commit(self, gateway, epoch, timeout_s):
        self._world.laws.commit_is_sent(gateway, epoch)
        await self._call(gateway, "commit", lambda server: server.commit(epoch), timeout_s)

    async def abort(self, gateway, epoch, timeout_s):
        await self._call(gateway, "abort", lambda server: server.abort(epoch), timeout_s)

    async def state_of(self, gateway, timeout_s):
        return await self._call(gateway, "state_of", lambda server: server.state_of(), timeout_s)

    async def load_of(self, shard, timeout_s):
        await self._call(shard, "load_of", lambda server: server.load(), timeout_s)
        return ShardLoad(np.zeros(NUM_LAYERS * NUM_EXPERTS, np.int64), 0.0)

    async def _call(self, part, what, serve, timeout_s):
        address = self.members.address_of(part)
        if address is None:
            self._world.laws.call_failed(part, what)
            raise PartFailedError(part, what, "its address is not known")
        try:
            return await self._world.network.call(address, what, serve, timeout_s)
        except CallError as error:
            self._world.laws.call_failed(part, what)
            raise PartFailedError(part, what, f"{error.status}: {error.reason}") from error


class _Controller(Controller):
    """Tells what it goes through."""

    def __init__(self, world, spec, calls, *, is_restart):
        self._is_restart = is_restart
        super().__init__(spec, calls, asyncio.get_running_loop().time)
        calls.members = self._members
        self._conductor._config = CONFIG
        self._world = world
        self._changes.change = self._change

    def _is_restarted(self):
        return self._is_restart

    def _keep_log(self, settings):
        """The log is that of the tests."""

    async def _run(self):
        await super()._run()
        self._world.laws.controller_serves(self)

    async def _change(self, target, inputs):
        change = Changes.change
        if self._conductor.stage is not Stage.IDLE:
            await change(self._changes, target, inputs)  # it is refused
            return
        self._world.laws.change_begins(self, target)
        try:
            await change(self._changes, target, inputs)
        except GalerneError:
            self._world.laws.change_ends(self, target)
            raise
        self._world.laws.change_ends(self, target)


class SimController:
    """One process of the controller. ``it`` answers."""

    def __init__(self, world, process, *, is_restart):
        self.process = process
        spec = SimpleNamespace(
            model_name="model",
            topology=world.first,
            inputs=world.inputs,
            cluster_token="",
            actor_name=str,
            expert_bytes=1,
            scaling=None,
            is_auto=False,
            logs=None,
        )
        calls = SimPartCalls(world)
        self.it = process.call(
            lambda: _Controller(world, spec, calls, is_restart=is_restart),
        )

    @property
    def conductor(self):
        return self.it._conductor

    @property
    def keeper(self):
        return self.it._keeper

    @property
    def is_recovered(self):
        return self.it._recovered.is_set()

    @property
    def is_idle(self):
        return self.conductor.stage is Stage.IDLE
