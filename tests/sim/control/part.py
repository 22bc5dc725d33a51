"""What every shard and gateway does: start, report, live until it is killed. See ``Reporter``."""

import asyncio
import contextlib

from cluster.actors import reporting
from cluster.control.members import HEARTBEAT_S, Heartbeat
from galerne.errors import NotServingError

_LOAD_S = (0.2, 2.0)
_DIE_S = 0.01


class StartFailedError(NotServingError):
    """A part that cannot start."""


class Part:
    """One process of a shard or gateway. ``actor`` is what Ray knows of it."""

    def __init__(self, world, process, actor, *, is_restart):
        self.world, self.process, self.actor = world, process, actor
        self.name = process.name
        self.address = f"{self.name}:{process.number}"
        self.is_serving = self.may_go_on = False
        self.serves_since_s = 0.0
        self._is_restart = is_restart
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        process.spawn(self._main())

    # -- of each kind ------------------------------------------------------------------------

    def serve(self, topology):
        """Everything is loaded: begin."""
        raise NotImplementedError

    @property
    def epochs(self):
        raise NotImplementedError

    @property
    def links(self):
        return {}

    # -- the life of a process ---------------------------------------------------------------

    async def _main(self):
        try:
            topology = await self._start_topology()
            await asyncio.sleep(self.world.rng.uniform(*_LOAD_S))
            if self.actor.start_fails():
                raise StartFailedError("no memory")
        except NotServingError as error:
            await self._report_failure(str(error))
            return
        self.world.note("serves", self.process, topology.epoch)
        self.serve(topology)
        self.is_serving, self.serves_since_s = True, self._loop.time()
        self.world.network.listening[self.address] = self
        await self._beat_for_ever()

    async def _report_failure(self, reason):
        timeout_s = reporting._REPORT_TIMEOUT_S
        with contextlib.suppress(TimeoutError):
            await self.ask(lambda server: server.it.failed(self.name, reason), timeout_s)
        if not self._is_restart:
            self.actor.is_over = True  # Ray does not repeat a constructor that raises
        self.exit()

    async def _start_topology(self):
        if not self._is_restart:
            return self.actor.first
        deadline_s = self._loop.time() + reporting._START_TOPOLOGY_S
        while self._loop.time() < deadline_s:
            try:
                timeout_s = reporting._REPORT_TIMEOUT_S
                answer = await self.ask(lambda server: server.it.wanted_parts(), timeout_s)
                wanted = answer.parts
            except TimeoutError:
                wanted = {}
            if self.name in wanted:
                return wanted[self.name]
            await asyncio.sleep(HEARTBEAT_S)
        raise NotServingError(f"{self.name}: wanted no longer")

    async def _beat_for_ever(self):
        while True:
            self._woken.clear()
            try:
                await self._beat()
            except TimeoutError:
                self.world.note("unheard", self.process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._woken.wait()

    async def _beat(self):
        told = Heartbeat(
            part=self.name,
            address=self.address,
            pid=self.process.number,
            node="node",
            epochs=tuple(self.epochs),
            links=self.links,
        )
        timeout_s = reporting._REPORT_TIMEOUT_S
        self.may_go_on = await self.ask(lambda server: server.it.heartbeat(told), timeout_s)
        if not self.may_go_on:
            self.world.note("was_replaced", self.process)
            self.exit()

    def wake(self):
        self._woken.set()

    def exit(self):
        """The process ends itself."""
        self.world.network.later(_DIE_S, self.process.kill)

    async def ask(self, serve, timeout_s):
        """Ask the controller."""
        return await self.world.network.ask(lambda: self.world.controller, serve, timeout_s)
