"""One schedule, from the start of the cluster to its end."""

import asyncio
import random
from collections import Counter
from typing import NamedTuple
from unittest import mock

from cluster.actors import controller as controller_module
from galerne.errors import ConfigError, GalerneError
from router.api.cluster_port import TopologyWish
from sim.control.driver import SimDriver
from sim.control.faults import Faults, until
from sim.control.laws import Law, Violation
from sim.control.loop import NothingLeftError
from sim.control.schedule import Finale, Schedule
from sim.control.settled import orphans, problems
from sim.control.streams import Frontend
from sim.control.world import World

START_WITHIN_S = 30.0
SETTLE_WITHIN_S = 240.0  # a change that hangs has to be given up first, stage by stage
CHANGE_WITHIN_S = 60.0
ADOPT_WITHIN_S = 15.0
STREAMS_WITHIN_S = 90.0
PENDING_S = 10.0  # that anything but an endless loop may take when all is quiet
_ASK_S = 5.0
_ENDLESS = ("_for_ever", "_main", "_keep_up", "_keep_alive", "_keep_fresh", "_keep_probing")
_ENDLESS += ("_follow", "ExpertKeeper.run", "Straightener.run", "AdapterKeeper.run", "Balancer.run")


class Outcome(NamedTuple):
    """Of a run that kept the laws."""

    fingerprint: str
    virtual_s: float
    seen: Counter


class Simulation:
    """Raises Violation."""

    def __init__(self, seed, focus=None):
        """``focus`` changes the seed's schedule, for a look at something in particular."""
        self.schedule = Schedule(seed)
        if focus is not None:
            focus(self.schedule)
        self.world = World(seed, self.schedule)
        self._rng = random.Random(f"{seed} load")
        self._frontends = []

    def run(self):
        loop, laws = self.world.loop, self.world.laws
        began_s = loop.time()
        try:
            with mock.patch.object(controller_module, "end_process", self._loop_has_died):
                loop.run_until_complete(self._main())
        except NothingLeftError:
            laws.broken(Law.ENDS, "nobody waits for anything that will come")
        except RuntimeError:
            if laws.violation is None:
                raise
        finally:
            self._clean_up()
        if laws.violation is not None:
            raise laws.violation
        world = self.world
        return Outcome(world.fingerprint(), loop.time() - began_s, world.seen)

    def _loop_has_died(self, task):
        if not task.cancelled():
            self.world.laws.broken(Law.CODE, f"{task.get_coro().__qualname__}: {task!r}")

    async def _main(self):
        world = self.world
        world.begin()
        world.driver = SimDriver(world)
        world.driver.begin()
        await self._expect(Law.SETTLED, START_WITHIN_S)
        world.driver.follow()
        for number in range(self.schedule.num_frontends):
            self._frontends.append(Frontend(world, f"frontend-{number}", self.schedule.wait_s))
            await self._frontends[-1].start()
        faults = Faults(world)
        faults.begin()
        load = asyncio.ensure_future(self._load())
        asks = asyncio.ensure_future(self._ask_for_changes())
        await asyncio.sleep(self.schedule.chaos_s)
        world.note("healed")
        faults.heal()
        await asks
        load.cancel()
        await self._expect(Law.SETTLED, SETTLE_WITHIN_S)
        await self._end_streams()
        world.note("finale", self.schedule.finale.value)
        await self._finale()
        await self._change_once_more()
        await self._expect(Law.SETTLED, SETTLE_WITHIN_S)
        self._submit()
        await self._end_streams()
        await asyncio.sleep(PENDING_S)
        self._check_nothing_is_left()

    # -- what is asked -----------------------------------------------------------------------

    async def _load(self):
        while True:
            self._submit()
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self.schedule.submit_every_s)

    def _submit(self):
        self._rng.choice(self._frontends).submit(self._rng)

    async def _ask_for_changes(self):
        began_s = self.world.loop.time()
        for at_s, wish in self.schedule.wishes:
            await asyncio.sleep(max(at_s - (self.world.loop.time() - began_s), 0.0))
            await self._ask(wish)

    async def _ask(self, wish):
        """Whether a change has begun."""
        asking = self._frontends[0].process.spawn(self._ask_there(wish))
        return await asking

    async def _ask_there(self, wish):
        world = self.world

        async def serve(server):
            was_idle = server.is_idle
            try:
                facts = await server.it.set_topology(wish)
            except GalerneError as error:
                return error
            if not was_idle:
                world.laws.broken(Law.ONE_CHANGE, "a second change is not refused")
            return facts

        try:
            answer = await world.network.ask(lambda: world.controller, serve, _ASK_S)
        except TimeoutError:
            answer = ConfigError("controller", "", "away")
        is_refused = isinstance(answer, GalerneError)
        world.note("asked", wish, answer if is_refused else "begun")
        world.seen["refused" if is_refused else "begun"] += 1
        return not is_refused

    # -- what must be so at last -------------------------------------------------------------

    async def _expect(self, law, within_s):
        world = self.world
        if not await until(lambda: not problems(world), within_s):
            world.laws.broken(law, f"after {within_s:g} s: {'; '.join(problems(world))}")
            await asyncio.sleep(1)

    async def _end_streams(self):
        def are_over():
            return not any(frontend.open for frontend in self._frontends)

        if not await until(are_over, STREAMS_WITHIN_S):
            left = [name for frontend in self._frontends for name in frontend.open]
            self.world.laws.broken(Law.ENDS, f"{', '.join(left)} after {STREAMS_WITHIN_S:g} s")
            await asyncio.sleep(1)

    async def _change_once_more(self):
        """Nothing that happened keeps the cluster from changing."""
        world = self.world
        conductor = world.controller.conductor
        before = conductor.current
        num_gateways = len(before.gateways) % 3 + 1
        has_begun = await self._ask(TopologyWish(gateways=num_gateways))
        if not has_begun or not await until(lambda: world.controller.is_idle, CHANGE_WITHIN_S):
            world.laws.broken(Law.SETTLED, f"it takes no change: {conductor.stage.value}")
            await asyncio.sleep(1)
        if conductor.current.epoch <= before.epoch:
            world.laws.broken(Law.SETTLED, f"a change without faults: {conductor.last_error}")

    async def _finale(self):
        world, finale = self.world, self.schedule.finale
        shards = list(world.controller.conductor.current.shard_processes)
        num_away = 2 if finale is Finale.TWO_AWAY else 1
        if finale is Finale.NONE or len(shards) <= num_away:
            world.seen[Finale.NONE] += 1
            return
        world.seen[finale] += 1
        self._rng.shuffle(shards)
        self._submit()
        for shard in shards[:num_away]:
            self._take_away(shard)
            await self._expect_adopted(shard)
        first = world.driver.actors[shards[0]]
        if finale is Finale.FLAP:
            held = len(orphans(world))
            first.release()
            await until(lambda: self._is_whole(), SETTLE_WITHIN_S, 0.1)
            await asyncio.sleep(self._rng.uniform(0.5, 2.5))
            self._take_away(shards[0])
            if orphans(world) and not held:
                problem = f"{len(orphans(world))} experts are gone with {shards[0]} at once"
                world.laws.broken(Law.KEPT, problem)
            await self._expect_adopted(shards[0])
        for shard in shards[:num_away]:
            world.driver.actors[shard].release()
        await self._expect(Law.SETTLED, SETTLE_WITHIN_S)
        await self._end_streams()

    def _take_away(self, shard):
        actor = self.world.driver.actors[shard]
        actor.is_held = True
        actor.now.process.kill()

    async def _expect_adopted(self, shard):
        world = self.world
        if not await until(lambda: not orphans(world), ADOPT_WITHIN_S):
            text = f"{len(orphans(world))} experts are nowhere {ADOPT_WITHIN_S:g} s after {shard}"
            world.laws.broken(Law.ADOPTED, text)
            await asyncio.sleep(1)

    def _is_whole(self):
        """All links are up, though experts may still be held for a shard that is back."""
        return not [p for p in problems(self.world) if "too many" not in p]

    def _check_nothing_is_left(self):
        now_s = self.world.loop.time()
        for task in asyncio.all_tasks(self.world.loop):
            name = task.get_coro().__qualname__
            if task is asyncio.current_task() or name.endswith(_ENDLESS):
                continue
            if now_s - float(task.get_name()) > PENDING_S / 2:
                self.world.laws.broken(Law.ENDS, f"{name} waits since {task.get_name()}")
        for what, error in self.world.network.errors:
            self.world.laws.broken(Law.CODE, f"{what}: {error!r}")
        for context in self.world.loop.failures:
            self.world.laws.broken(Law.CODE, f"{context['message']}: {context.get('exception')!r}")

    def _clean_up(self):
        world, loop = self.world, self.world.loop
        world.is_over = True
        for process in world.processes:
            process.kill()
        if world.network is not None:
            world.network.close()
        loop.call_soon(loop.stop)
        loop.run_forever()  # a stop that is still on its way would end the next run
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


__all__ = ["Law", "Outcome", "Simulation", "Violation"]
