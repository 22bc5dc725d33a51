"""What must hold in every schedule, and who says so when it does not."""

import enum

from sim.violation import Violation


class Law(enum.Enum):
    """One promise of the control plane."""

    TOKENS = "a stream's tokens are those of its request, each once and in order"
    STREAMS = "a stream fails only where no gateway could be reached for longer than the wait"
    ONE_EPOCH = "a step belongs to one epoch"
    RETIRED = "no epoch is retired in which a gateway steps that could be told otherwise"
    ABORTED = "a change that is undone leaves everybody as before"
    COMMITTED = "who commits finds all prepared, and what starts meanwhile starts there"
    ONE_CHANGE = "one change at a time"
    FORWARD = "no epoch follows a higher one, whoever restarts"
    SETTLED = "when all faults are over, all serve the current epoch and hold what it places"
    ADOPTED = "no expert stays without a live copy while a shard lives"
    KEPT = "what was adopted is kept until the shards have been back for a while"
    ENDS = "everything that begins comes to an end"
    CODE = "no exception but the announced ones"
    REPEATS = "one seed, one history"


class Laws:
    """Told of everything that happens; the first violation ends the run."""

    def __init__(self, world):
        self._world = world
        self.violation = None
        self._epoch_by_step = {}
        self._currents = []  # topologies that a controller has had as its current one
        self._finished = 0  # the last epoch to which a change came, to its end
        self._committed = set()  # gateways that have swapped
        self._failed_calls = set()
        self._change = None  # (controller, old, target, since)

    def broken(self, law, problem):
        if self.violation is None and not self._world.is_over:
            self.violation = Violation(law, problem, self._world.tail())
            self._world.loop.stop()

    # -- steps -------------------------------------------------------------------------------

    def frame(self, shard, gateway, step, epoch):
        if step < 0:
            return  # of a shadow
        known = self._epoch_by_step.setdefault((gateway.address, step), epoch)
        if known != epoch:
            self.broken(Law.ONE_EPOCH, f"step {step} of {gateway.process}: {known} and {epoch}")

    def retires(self, shard, epoch):
        controller = self._world.controller
        for gateway in self._world.live_parts("gateway-"):
            topology = gateway.switch.topology
            if topology.epoch != epoch or shard.name not in topology.shard_processes:
                continue
            is_known = controller.it._members.is_live(gateway.name)
            if (
                is_known
                and self._was_current(topology)
                and gateway.name in controller.conductor.wanted
            ):
                self.broken(Law.RETIRED, f"{shard.process} retires {epoch}, {gateway.process} not")

    # -- changes -----------------------------------------------------------------------------

    def controller_serves(self, controller):
        """It has just started, and has learned what serves."""
        current = controller._conductor.current
        process = self._world.controller.process
        self._note_current(current)
        self._world.seen["changes resumed"] += controller._conductor.target is not None
        if current.epoch < self._finished:
            problem = f"a controller starts at {current.epoch}, {self._finished} was served by all"
            self.broken(Law.FORWARD, problem)
        for gateway in self._world.live_parts("gateway-"):
            topology = gateway.switch.topology
            is_heard = not (
                gateway.process.is_stopped or self._world.network.is_cut(process, gateway.process)
            )
            if is_heard and topology.epoch > current.epoch and gateway in self._committed:
                problem = f"a controller starts at {current.epoch}, {gateway.process} is at "
                self.broken(Law.FORWARD, problem + str(topology.epoch))

    def change_begins(self, controller, target):
        if self._change is not None and self._change[0] is controller:
            self.broken(Law.ONE_CHANGE, f"{target.epoch} begins while another change goes on")
        old = controller._conductor.current
        self._change = controller, old, target, self._world.loop.time()
        self._failed_calls.clear()
        self._world.seen["changes"] += 1

    def change_ends(self, controller, target):
        _, old, _, begun_s = self._change or (None, None, None, 0.0)
        self._change = None
        conductor = controller._conductor
        if (
            self._world.controller.it is not controller
            or not self._world.controller.process.is_alive
        ):
            return  # it dies just now
        if not conductor.last_error:
            self._world.seen["committed"] += 1
            self._finished = target.epoch
            return
        self._world.seen["undone"] += 1
        self._world.seen[conductor.last_error.split(":")[0]] += 1
        if conductor.current is not old:
            self.broken(Law.ABORTED, f"{conductor.current.epoch} is current")
        for part in self._world.live_parts():
            if part.serves_since_s <= begun_s and part.name in old.parts:
                self._check_undone(part, target.epoch)

    def _check_undone(self, part, epoch):
        if part.name.startswith("gateway-"):
            prepared, undo = part.switch.prepared, ("abort",)
            is_left = prepared is not None and prepared.topology.epoch == epoch
            is_left = is_left or part.switch.topology.epoch == epoch
        else:
            is_left, undo = epoch in part.served, ("retire_epochs", "prepare_epoch")
        if is_left and not any((part.name, what) in self._failed_calls for what in undo):
            self.broken(Law.ABORTED, f"{part.process} still has epoch {epoch}")

    def call_failed(self, part, what):
        self._failed_calls.add((part, what))

    def commit_is_sent(self, gateway, epoch):
        conductor = self._world.controller.conductor
        if conductor.current.epoch != epoch:
            problem = f"{gateway} is told to commit {epoch}, {conductor.current.epoch} is current"
            self.broken(Law.COMMITTED, problem)
        self._note_current(conductor.current)
        if self._change is None or self._change[2].epoch != epoch:
            return
        for shard in self._world.live_parts("shard-"):
            was_there = shard.serves_since_s <= self._change[3]
            is_needed = shard.name in conductor.current.shard_processes
            if is_needed and epoch not in shard.served and (was_there or self._is_new(shard)):
                self.broken(Law.COMMITTED, f"{gateway} commits {epoch}, {shard.process} not")

    def _is_new(self, shard):
        """In the change that goes on."""
        return shard.name not in self._change[1].parts

    def swaps(self, gateway, topology):
        old = gateway.switch.topology
        self._world.note("swaps", gateway.process, old.epoch, topology.epoch)
        self._committed.add(gateway)
        if topology.epoch <= old.epoch:
            self.broken(Law.FORWARD, f"{gateway.process}: {topology.epoch} after {old.epoch}")
        if not self._was_current(topology):
            self.broken(Law.COMMITTED, f"{gateway.process} serves {topology.epoch}, nobody else")

    def _note_current(self, topology):
        if topology not in self._currents:
            self._currents.append(topology)

    def _was_current(self, topology):
        return topology in self._currents
