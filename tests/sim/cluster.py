"""The shards of a run: who runs, what they serve, and the faults that strike them."""

import random
from functools import partial

from shards.residency import as_set
from sim.network import CALM, Network
from sim.schedule import FaultKind
from sim.shards import SimShard

SLOWNESS = 200.0


class SimCluster:
    """Plays the controller's part."""

    def __init__(self, world, schedule):
        self.world = world
        self.network = Network(world, random.Random(f"network {schedule.seed}"), schedule.weather)
        self.num_faults = {}
        self._schedule = schedule
        self._shards = {}
        self._faults = sorted(schedule.faults, key=lambda fault: fault.at_call)
        self.prepare(schedule.topology, load_s=0.0)

    def shards_of(self, topology):
        """By name; those that are missing are started."""
        for name in topology.shards:
            if name not in self._shards:
                shard = SimShard(self.network, name, self._schedule.compute_s)
                self._shards[name] = shard
        return {name: self._shards[name] for name in topology.shards}

    def prepare(self, topology, load_s):
        """Every shard serves the epoch too, once it has loaded its experts."""
        for name, shard in self.shards_of(topology).items():
            placed = as_set(topology.placement.experts_of(name))
            load = partial(shard.prepare, topology.epoch, placed)
            self.world.after(load_s * self.network.rng.random(), load)

    def retire(self, topology, successor):
        """Nobody serves the epoch any more; who has no part in its successor leaves."""
        for name in topology.shards:
            shard = self._shards[name]
            told_s = self.network.delay_s()
            self.world.after(told_s, partial(shard.retire, topology.epoch))
            if name not in successor.shards:
                self._shards.pop(name)
                self.world.after(told_s + self.network.rng.random() * 0.1, shard.leave)

    def call_begins(self, number):
        """Faults that go with a call; seconds that the gateway stands still."""
        pause_s = 0.0
        while self._faults and self._faults[0].at_call <= number:
            fault = self._faults.pop(0)
            self.num_faults[fault.kind] = self.num_faults.get(fault.kind, 0) + 1
            if fault.kind is FaultKind.PAUSE:
                pause_s += min(fault.seconds, 1.0)
            else:
                self.world.after(fault.offset_s, partial(self._strike, fault))
        return pause_s

    def _strike(self, fault):
        running = [shard for shard in self._shards.values() if shard.is_running]
        if not running:
            return
        victims = {running[place % len(running)].id: None for place in fault.shards}
        for name in victims:
            self._strike_one(fault, self._shards[name])

    def _strike_one(self, fault, shard):
        self.world.note("fault", fault.kind.value, shard.id, fault.seconds)
        strike = {
            FaultKind.CRASH: partial(shard.crash, is_silent=False),
            FaultKind.POWER_LOSS: partial(shard.crash, is_silent=True),
            FaultKind.HANG: shard.hang,
            FaultKind.SLOW: partial(shard.slow_down, SLOWNESS),
            FaultKind.OVERLOAD: shard.overload,
            FaultKind.PARTITION: partial(self.network.cut, shard),
            FaultKind.FLAP: lambda _: shard.each_connection(lambda c: c.break_off("flap")),
            FaultKind.LOSS: lambda _: shard.each_connection(lambda c: c.lose()),
            FaultKind.STALL: lambda s: shard.each_connection(lambda c: c.block(s)),
        }[fault.kind]
        strike(fault.seconds)

    def calm(self):
        """No more faults; those that have struck still take their time."""
        self._faults.clear()
        self.network.weather = CALM

    def connections(self):
        """What still connects anybody to a shard, by shard and epoch."""
        return [(s.id, c.epoch) for s in self._shards.values() for c in s.connections]
