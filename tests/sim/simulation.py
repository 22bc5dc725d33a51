"""One schedule from start to end, and the report of what it showed."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

from sim.cluster import SimCluster
from sim.gateway import SimGateway
from sim.keeper import SimKeeper
from sim.laws import Law, Violation
from sim.member import create_member
from sim.schedule import SwitchKind, create_schedule
from sim.world import World

LOAD_S = 0.5  # that a shard needs for its experts
CALM_AFTER_S = 60.0  # all faults are over by then
READY_WITHIN_S = 90.0
LOOK_S = 0.25
LAST_LINES = 30  # of the history, shown with a violation
COUNTERS = ("rows_resent", "late_answers", "duplicate_rows", "suspicions", "refused_frames")


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to."""

    fingerprint: str
    virtual_s: float
    seen: Counter  # how often what was met


class Simulation:
    """Runs the schedule of a seed."""

    def __init__(self, seed):
        self.schedule = create_schedule(seed)
        self.world = World()
        self.cluster = SimCluster(self.world, self.schedule)
        self.gateway = SimGateway(self.world, self.cluster, self.schedule)
        self._switches = list(self.schedule.switches)
        self._seen = Counter()

    def run(self):
        """Raises Violation, with the end of the history."""
        started_s = self.world.time_s
        try:
            self._run()
        except Violation as violation:
            violation.history = self.world.history(LAST_LINES)
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise Violation(Law.CODE, problem, self.world.history(LAST_LINES)) from error
        return Outcome(self.world.fingerprint(), self.world.time_s - started_s, self._count())

    def _run(self):
        if self.schedule.adopts:
            SimKeeper(self.cluster, lambda: self.gateway.member)
        for step in range(self.schedule.num_steps):
            self.gateway.idle(self.schedule.idle_s[step])
            if self._switches and self._switches[0].before_step == step:
                self._switch(self._switches.pop(0))
            self.gateway.run_step()
        self._end_well()

    def _switch(self, switch):
        """Prepare, run on, then shadow, and commit or abort."""
        self._seen[switch.kind] += 1
        self.world.note("prepare", switch.topology.epoch, switch.kind.value)
        old, topology = self.gateway.member, switch.topology
        self.cluster.prepare(topology, LOAD_S)
        successor = create_member(self.world, self.cluster, self.schedule, topology)
        if switch.kind is SwitchKind.EARLY:
            self.gateway.retired.add(old.topology.epoch)
            retire_s = switch.retire_after_s
            self.world.after(retire_s, partial(self.cluster.retire, old.topology, topology))
        self.gateway.run_step()
        if switch.kind is SwitchKind.ABORT:
            self._abort(successor)
            return
        self._wait_until_ready(successor)
        if switch.kind is not SwitchKind.EARLY and not self.gateway.shadow(successor):
            self._seen["failed shadows"] += 1
            self._abort(successor)
            return
        self._count_member(old)
        self.gateway.commit(successor)
        if switch.kind is not SwitchKind.EARLY:
            self.cluster.retire(old.topology, topology)

    def _abort(self, successor):
        self._count_member(successor)
        successor.exchange.close()
        successor.check_nothing_is_away()
        self.cluster.retire(successor.topology, self.gateway.member.topology)

    def _wait_until_ready(self, member):
        end_s = self.world.time_s + READY_WITHIN_S
        member.exchange.poll()
        while not member.is_ready:
            if self.world.time_s > end_s:
                raise Violation(Law.ENDS, f"after {READY_WITHIN_S:g} s: {member.exchange.links}")
            self.gateway.idle(LOOK_S)
            member.exchange.poll()

    def _end_well(self):
        """Whatever happened: with all faults over, a step completes, and all is released."""
        self.cluster.calm()
        self.gateway.idle(CALM_AFTER_S)
        member = self.gateway.member
        self._wait_until_ready(member)
        if not self.gateway.run_step():
            raise Violation(Law.ENDS, "a step failed though all faults were over")
        self._count_member(member)
        member.exchange.close()
        member.check_nothing_is_away()
        self.world.run_until(self.world.time_s + 1.0)
        if left := self.cluster.connections():
            raise Violation(Law.RELEASED, f"links stand that nobody uses: {left}")

    def _count_member(self, member):
        for name in COUNTERS:
            self._seen[name] += getattr(member.exchange.counters, name)
        self._seen["rows_owed"] += member.ledger.rows_owed

    def _count(self):
        self._seen["calls"] += self.gateway.num_complete
        self._seen["failed calls"] += self.gateway.num_failed
        for what in ("whole call", "adopted"):
            self._seen[what] += sum(line[1] == what for line in self.world.trace)
        self._seen.update(self.cluster.num_faults)
        return self._seen
