"""Who starts and ends parts: the driver that follows the controller, and Ray, which restarts."""

import asyncio

from cluster import launch
from cluster.control.standing import Standing
from sim.control.controller import RESTART_S, SimController
from sim.control.gateway import SimGateway
from sim.control.shard import SimShard

_PLACED_S = (0.05, 1.0)


class Actor:
    """What Ray knows of one part."""

    def __init__(self, world, part, first):
        self.part, self.first = part, first
        self.is_over = False  # Ray starts it no more
        self.is_held = False  # nor now: there is no room
        self.now = None
        self.failing_starts = world.failing_starts.get(part, 0)
        self._world = world
        self._start(is_restart=False)

    def start_fails(self):
        self.failing_starts -= 1
        return self.failing_starts >= 0

    def kill(self):
        """For good."""
        self.is_over = True
        if self.now is not None:
            self.now.process.kill()

    def replace(self):
        """Its node is cut off: Ray starts it on another; the old process does not know."""
        old = self.now.process
        old.is_cut_off = True
        old.on_death.remove(self._died)
        self._world.cut_off.append(old)
        self._died(old)

    def release(self):
        if self.is_held:
            self.is_held = False
            if not self.now.process.is_alive:
                self._plan_restart()

    def _start(self, *, is_restart):
        world = self._world
        process = world.create_process(self.part)
        process.on_death.append(self._died)
        kind = SimGateway if self.part.startswith("gateway-") else SimShard
        self.now = kind(world, process, self, is_restart=is_restart)

    def _died(self, process):
        self._world.note("died", process)
        if not self.is_over and not self.is_held:
            self._plan_restart()

    def _plan_restart(self):
        self._world.network.later(self._world.rng.uniform(*RESTART_S), self._restart)

    def _restart(self):
        if not self.is_over and not self.is_held:
            self._start(is_restart=True)


class SimDriver:
    """See ``Deployment``."""

    def __init__(self, world):
        self._world = world
        self.actors = {}
        self._known = Standing(topology=world.first)
        self.process = world.create_process("driver")

    def begin(self):
        self._start_controller(is_restart=False)
        for part in self._world.first.parts:
            self._create(part, self._world.first)

    def follow(self):
        self.process.spawn(self._follow())

    def _create(self, part, topology):
        self._world.note("starts", part, topology.epoch)
        self.actors[part] = Actor(self._world, part, topology)

    async def _follow(self):
        while True:
            await asyncio.sleep(launch._FOLLOW_S)
            try:
                wanted = await self._ask(lambda server: server.it.wanted_parts(self._known))
                self._known = wanted.standing
                await self._adjust(wanted.parts)
            except TimeoutError:
                self._world.note("follow_failed")

    async def _ask(self, serve):
        timeout_s = launch._REPORT_TIMEOUT_S
        return await self._world.network.ask(lambda: self._world.controller, serve, timeout_s)

    async def _adjust(self, wanted):
        for part in [part for part in wanted if part not in self.actors]:
            await asyncio.sleep(self._world.rng.uniform(*_PLACED_S))
            self._create(part, wanted[part])
        for part in [part for part in self.actors if part not in wanted]:
            self._world.note("ends", part)
            self.actors.pop(part).kill()
            await self._ask(lambda server, part=part: server.it.ended(part))

    def _start_controller(self, *, is_restart):
        process = self._world.create_process("controller")
        process.on_death.append(self._controller_died)
        self._world.controller = SimController(self._world, process, is_restart=is_restart)

    def _controller_died(self, process):
        self._world.note("died", process)
        if not self._world.is_over:
            delay_s = self._world.rng.uniform(*RESTART_S)
            self._world.network.later(delay_s, self._restart_controller)

    def _restart_controller(self):
        self._start_controller(is_restart=True)
