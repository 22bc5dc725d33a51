"""Makes what a schedule says go wrong, and makes it good again."""

import asyncio
from collections import Counter

from sim.control.schedule import Victim


class Faults:
    """Of one run; until ``heal``."""

    def __init__(self, world):
        self._world = world
        self._is_over = False
        self._num_calls = Counter()
        self._traps = list(world.schedule.traps)

    def begin(self):
        world = self._world
        for fault in world.schedule.faults:
            world.network.later(fault.at_s, self._happen, fault)
        world.network.before = lambda target, what: self._called(target, what, is_before=True)
        world.network.after = lambda target, what: self._called(target, what, is_before=False)
        world.network.share_of_faults = world.schedule.share_of_faults

    def heal(self):
        """Everything works again; what is dead still has to come back."""
        self._is_over = True
        self._world.network.share_of_faults = 0.0
        self._world.failing_starts = {}
        for process in self._world.processes:
            process.is_cut_off = False
            if process.is_stopped:
                process.go_on()
        for actor in self._world.driver.actors.values():
            actor.release()
        self._world.network.heal()

    def _called(self, target, what, *, is_before):
        if self._is_over:
            return
        self._num_calls[what, is_before] += 1
        place = (what, self._num_calls[what, is_before], is_before)
        for trap in self._traps:
            if (trap.what, trap.number, trap.is_before) == place:
                self._traps.remove(trap)
                self._spring(trap, target)
                return

    def _spring(self, trap, target):
        world = self._world
        world.note("trap", trap.what, "before" if trap.is_before else "after", trap.victim.value)
        world.seen[trap.victim] += 1
        controller = world.controller.process
        match trap.victim:
            case Victim.TARGET:
                target.kill()
            case Victim.CONTROLLER:
                controller.kill()
            case Victim.BOTH:
                controller.kill()
                target.kill()
            case Victim.OTHER:
                self._kill(self._part(trap.pick))
            case Victim.HANG:
                self._hang(target, trap.seconds)
            case Victim.CUT:
                self._cut_from_controller(trap, "gateway-")
            case Victim.HANG_CONTROLLER:
                self._hang(controller, trap.seconds)

    # -- faults ------------------------------------------------------------------------------

    def _happen(self, fault):
        if self._is_over:
            return
        self._world.note("fault", fault.kind.value, f"{fault.seconds:.1f}s")
        self._world.seen[fault.kind] += 1
        getattr(self, f"_{fault.kind.name.lower()}")(fault)

    def _crash(self, fault):
        self._kill(self._part(fault.pick))

    def _crash_two(self, fault):
        self._kill(self._part(fault.pick))
        self._kill(self._part(fault.other))

    def _crash_controller(self, fault):
        self._world.controller.process.kill()

    def _crash_with_controller(self, fault):
        self._world.controller.process.kill()
        self._kill(self._part(fault.pick))

    def _away(self, fault):
        part = self._part(fault.pick)
        if part is not None:
            part.actor.is_held = True
            part.process.kill()
            self._world.network.later(fault.seconds, part.actor.release)

    def _hang(self, fault, seconds=None):
        process = fault
        if seconds is None:
            part, seconds = self._part(fault.pick), fault.seconds
            process = None if part is None else part.process
        if process is not None and process.is_alive:
            process.stop()
            self._world.network.later(seconds, self._go_on, process)

    def _hang_controller(self, fault):
        self._hang(self._world.controller.process, fault.seconds)

    def _go_on(self, process):
        if process.is_stopped:
            self._world.note("goes on", process)
            process.go_on()

    def _cut_from_controller(self, fault, prefix=""):
        part = self._part(fault.pick, prefix)
        if part is not None:
            self._cut("controller", part.name, fault.seconds)

    def _cut_link(self, fault):
        gateway, shard = self._part(fault.pick, "gateway-"), self._part(fault.other, "shard-")
        if gateway is not None and shard is not None:
            self._cut(gateway.name, shard.name, fault.seconds)

    def _cut_frontend(self, fault):
        gateway = self._part(fault.pick, "gateway-")
        if gateway is not None:
            self._cut("frontend-0", gateway.name, fault.seconds)

    def _cut_frontend_from_controller(self, fault):
        self._cut("frontend-0", "controller", fault.seconds)

    def _cut_driver(self, fault):
        self._cut("driver", "controller", fault.seconds)

    def _node(self, fault):
        part = self._part(fault.pick)
        if part is not None:
            part.actor.replace()
            self._world.network.later(fault.seconds, self._node_is_back, part.process)

    def _node_is_back(self, process):
        process.is_cut_off = False
        self._world.network.heal("nobody", "nothing")

    def _calls(self, fault):
        network, before = self._world.network, self._world.schedule.share_of_faults
        network.share_of_faults = 0.1
        network.later(
            fault.seconds, lambda: self._is_over or setattr(network, "share_of_faults", before)
        )

    def _cut(self, a, b, seconds):
        self._world.note("cut", a, b)
        self._world.network.cut(a, b)
        self._world.network.later(seconds, self._world.network.heal, a, b)

    def _kill(self, part):
        if part is not None:
            part.process.kill()

    def _part(self, pick, prefix=""):
        """Any that runs, also one that still loads."""
        actors = self._world.driver.actors.items()
        parts = [a.now for name, a in sorted(actors) if name.startswith(prefix)]
        parts = [p for p in parts if p.process.is_alive and p.process not in self._world.cut_off]
        return parts[int(pick * len(parts))] if parts else None


async def until(is_so, within_s, look_s=0.25):
    """Whether it came to be so in time."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + within_s
    while not is_so():
        if loop.time() > end_s:
            return False
        await asyncio.sleep(look_s)
    return True
