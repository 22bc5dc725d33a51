"""Shards that compute hashes, by the rules of ``ExpertWorker`` and ``ExchangeStream``."""

from functools import partial

import numpy as np
import torch

from galerne.errors import OverloadedError, ProtocolError
from galerne.hello import check_hello
from shards.epochs import ServedEpochs
from shards.jobs import Job
from shards.merge import merge, split
from shards.residency import Residency, by_layer
from shards.shm.link import wrong_epoch
from sim.bits import expert_rows
from sim.laws import Law, Violation

FINGERPRINT, PROFILE = "model-0", "hashes"


class SimShard:
    """One shard process, its machine, and what may happen to both."""

    def __init__(self, network, shard_id, compute_s):
        self.id, self.life, self.connections = shard_id, 0, []
        self._network, self._world, self._compute_s = network, network.world, compute_s
        self._epochs, self._told_epochs = ServedEpochs(), set()
        self._retired_epochs = set()
        self._residency = Residency((), frozenset())
        self._resident = self.kept = frozenset()
        self._queued = []
        self._is_computing = self._has_left = False
        self._dead_until_s = self._hung_until_s = 0.0
        self._slow_until_s = self._full_until_s = 0.0
        self._slowness = 1.0

    # -- what the network asks ---------------------------------------------------------------

    @property
    def is_running(self):
        return not self._has_left and self._dead_until_s <= self._world.time_s

    @property
    def is_responsive(self):
        return self.is_running and self._hung_until_s <= self._world.time_s

    @property
    def is_well(self):
        """Whether it answers soon what it is asked."""
        return self.is_responsive and max(self._slow_until_s, self._full_until_s) <= (
            self._world.time_s
        )

    def is_told_to_serve(self, epoch):
        """Whether the controller wants it to."""
        return epoch in self._told_epochs

    def greet(self, hello):
        """Raises HelloRefusedError."""
        check_hello(hello, FINGERPRINT, PROFILE, self._epochs)
        if not self.is_told_to_serve(hello.epoch):
            raise Violation(Law.EPOCHS, f"{self.id} welcomed a gateway of epoch {hello.epoch}")

    def take(self, job: Job):
        """A frame has come, as in ``ExchangeStream``; one that hangs leaves it where it lies."""
        if not self.is_running:
            return
        if job.header.epoch not in self._epochs:
            job.link.refuse(job.header, wrong_epoch(self._epochs, job.header.epoch))
        elif self._full_until_s > self._world.time_s or self._network.chance(
            self._network.weather.refusal
        ):
            job.link.refuse(job.header, OverloadedError(self.id, 1, 0.0))
        else:
            self._queued.append(job)
            self._start()

    # -- what it does ------------------------------------------------------------------------

    def _start(self):
        """Take all that is queued, as ``ExpertWorker`` does; layers and epochs one by one."""
        if self._is_computing or not self._queued or not self.is_responsive:
            return
        jobs, self._queued = self._queued, []
        self._is_computing = True
        by_key = {}
        for job in jobs:
            by_key.setdefault((job.header.layer, job.header.epoch), []).append(job)
        each_s = self._compute_s
        if self._slow_until_s > self._world.time_s:
            each_s *= self._slowness
            self._be_slow_until(self._world.time_s + each_s * len(by_key))
        self._world.after(each_s, partial(self._finish, self.life, list(by_key.items()), each_s))

    def _finish(self, life, groups, each_s):
        if life != self.life:
            return
        if not self.is_responsive:
            self._world.at(self._hung_until_s, partial(self._finish, life, groups, each_s))
            return
        ((layer, epoch), jobs), *others = groups
        self._compute(layer, epoch, jobs)
        if others:
            self._world.after(each_s, partial(self._finish, life, others, each_s))
            return
        self._is_computing = False
        self._start()

    def _compute(self, layer, epoch, jobs):
        jobs = [job for job in jobs if self._is_resident(job)]
        if not jobs:
            return
        self._world.note("computed", self.id, epoch, layer, [job.header.frame for job in jobs])
        merged = merge([job.rows for job in jobs])
        rows = merged.rows
        experts = np.repeat(rows.expert_ids, rows.num_rows_by_group)
        results = expert_rows(epoch, layer, experts, rows.tokens.numpy()[rows.row_token])
        for job, part in zip(jobs, split(merged, torch.from_numpy(results)), strict=True):
            job.link.answer(job.header, part)

    def _is_resident(self, job):
        """Refuse, as ``ExpertBank`` does, what is not held; and what was retired meanwhile."""
        header = job.header
        if header.epoch not in self._epochs:
            job.link.refuse(header, wrong_epoch(self._epochs, header.epoch))
            return False
        if not self.is_told_to_serve(header.epoch):
            raise Violation(Law.EPOCHS, f"{self.id} computes a frame of epoch {header.epoch}")
        missing = [
            e for e in job.rows.expert_ids.tolist() if (header.layer, e) not in self._resident
        ]
        if missing:
            job.link.refuse(header, ProtocolError(f"expert {missing[0]} is not resident"))
        return not missing

    # -- what the controller asks, by the rules of ``ShardControl`` --------------------------

    def prepare(self, epoch, placed):
        """Serve an epoch to come; its experts are loaded. It may have been given up meanwhile."""
        if epoch in self._retired_epochs:
            return
        self._residency.prepare(epoch, placed)
        self._told_epochs.add(epoch)
        self._hold_what_is_wanted()

    def retire(self, epoch):
        """Serve an epoch no longer; one that hangs hears of it when it is back."""
        if self._hung_until_s > self._world.time_s:
            self._world.at(self._hung_until_s, partial(self.retire, epoch))
            return
        self._retired_epochs.add(epoch)
        if self.is_told_to_serve(epoch):
            self._world.note("retired", self.id, epoch)
            self._residency.retire([other for other in self._told_epochs if other != epoch])
            self._told_epochs.remove(epoch)
            self._hold_what_is_wanted()

    def adopt(self, experts):
        """Hold these for lost shards; they are loaded."""
        before, self.kept = self._residency.adopted, experts
        self._residency.adopt(experts)
        if self._residency.adopted != before:
            self._world.note("adopted", self.id, len(self._residency.adopted))
            self.each_connection(lambda connection: connection.tell_adopted())
        self._hold_what_is_wanted()

    @property
    def adopted(self):
        """Experts by layer."""
        return by_layer(self._residency.adopted)

    def _hold_what_is_wanted(self):
        self._epochs.replace(self._residency.epochs)
        self._resident = self._residency.wanted
        self.refresh()

    def _forget_adopted(self):
        """A new process knows its place only."""
        self.kept = frozenset()
        self._residency.adopt(frozenset())
        self._hold_what_is_wanted()

    # -- what happens to it ------------------------------------------------------------------

    def refresh(self):
        self.each_connection(lambda connection: connection.refresh())
        self._start()

    def each_connection(self, action):
        """Do something to all that stand now."""
        for connection in list(self.connections):
            action(connection)

    def crash(self, restart_s, *, is_silent):
        """The queue is lost. ``is_silent``: the machine went, so that no peer is told."""
        self._world.note("crash", self.id, restart_s, is_silent)
        self.life += 1
        self._queued, self._is_computing = [], False
        self._dead_until_s = max(self._dead_until_s, self._world.time_s + restart_s)
        self._hung_until_s = 0.0
        self._forget_adopted()
        for connection in list(self.connections):
            connection.lose()
            # A machine that is back resets what it does not know.
            told_s = restart_s if is_silent else self._network.delay_s()
            self._world.after(told_s, partial(connection.break_off, "reset"))
        self._world.at(self._dead_until_s, self.refresh)

    def hang(self, seconds):
        """Stopped; its links stand, and what comes is answered afterwards."""
        self._world.note("hang", self.id, seconds)
        self._hung_until_s = max(self._hung_until_s, self._world.time_s + seconds)
        self.refresh()
        self._world.at(self._hung_until_s, self.refresh)

    def slow_down(self, factor, seconds):
        self._world.note("slow", self.id, factor, seconds)
        self._slowness = factor
        self._be_slow_until(self._world.time_s + seconds)

    def _be_slow_until(self, until_s):
        self._slow_until_s = max(self._slow_until_s, until_s)
        self.refresh()
        self._world.at(self._slow_until_s, self.refresh)

    def overload(self, seconds):
        """Refuses for a while, to be asked again."""
        self._world.note("overload", self.id, seconds)
        self._full_until_s = self._world.time_s + seconds
        self.refresh()
        self._world.at(self._full_until_s, self.refresh)

    def leave(self):
        """The process ends."""
        self._world.note("left", self.id)
        self._has_left = True
        self.life += 1
        self.each_connection(lambda connection: connection.break_off("left"))
