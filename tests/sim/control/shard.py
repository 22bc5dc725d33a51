"""A shard: the real control of what it holds, over a bank that loads nothing."""

import asyncio
from concurrent.futures import Future

from galerne.errors import HelloRefusedError, ProtocolError
from shards.control import ShardControl
from shards.epochs import ServedEpochs
from shards.residency import as_set, by_layer
from shards.shm.link import wrong_epoch
from sim.control.part import Part

_COMPUTE_S = (0.001, 0.02)


class FakeBank:
    """Implements what ``ShardControl`` needs of ``ExpertBank``."""

    num_bytes = 1000

    def __init__(self, resident):
        self.resident = resident

    def __len__(self):
        return len(self.resident)

    def load(self, experts_by_layer):
        self.resident |= as_set(experts_by_layer)

    def drop(self, experts_by_layer):
        self.resident -= as_set(experts_by_layer)


class FakeWorker:
    """Implements what ``ShardControl`` needs of ``ExpertWorker``."""

    def run_between_passes(self, what):
        what()
        done = Future()
        done.set_result(None)
        return done


class SimShard(Part):
    """Listens for gateways and for the controller."""

    def serve(self, topology):
        self.bank = FakeBank(as_set(topology.placement.experts_of(self.name)))
        self.served = ServedEpochs((topology.epoch,))
        self.retired = set()
        self.control = ShardControl(
            self.bank, FakeWorker(), self.served, self.bank.resident, self._tell_adopted
        )
        self._gateways = []  # connections

    @property
    def epochs(self):
        return sorted(self.served)

    # -- asked by the controller -------------------------------------------------------------

    async def adopt(self, experts):
        await self.control.adopt(experts)
        self.world.note("holds", self.process, len(self.control.adopted))

    async def prepare_epoch(self, epoch, experts):
        await self.control.prepare(epoch, experts)
        self.retired.discard(epoch)

    async def retire_epochs(self, keep):
        gone = set(self.served) - set(keep)
        for epoch in gone:
            self.world.laws.retires(self, epoch)
        self.retired |= gone
        await self.control.retire(keep)

    async def load(self):
        """Nobody counts here."""

    # -- asked by gateways -------------------------------------------------------------------

    def accept(self, connection):
        connection.on_message[1] = lambda message: self._take(connection, *message)
        connection.on_break[1] = lambda: self._gone(connection)

    def _take(self, connection, kind, *fields):
        if kind == "hello":
            self._greet(connection, *fields)
        else:
            self.process.spawn(self._compute(connection, *fields))

    def _greet(self, connection, epoch):
        if epoch not in self.served:
            error = HelloRefusedError("epoch", str(list(self.served)), str(epoch))
            connection.send(1, ("refused", error))
            return
        connection.send(1, ("welcome",))
        self._gateways.append(connection)
        if self.control.adopted:
            connection.send(1, ("adopted", by_layer(self.control.adopted)))

    def _gone(self, connection):
        if connection in self._gateways:
            self._gateways.remove(connection)

    def _tell_adopted(self):
        for connection in self._gateways:
            connection.send(1, ("adopted", by_layer(self.control.adopted)))

    async def _compute(self, connection, frame, gateway, step, epoch, layer, experts, num_rows):
        self.world.laws.frame(self, gateway, step, epoch)
        if epoch not in self.served:
            connection.send(1, ("refusal", frame, wrong_epoch(self.served, epoch)))
            return
        await asyncio.sleep(self.world.rng.uniform(*_COMPUTE_S))
        missing = [e for e in experts if (layer, e) not in self.bank.resident]
        if missing:
            problem = f"expert {missing[0]} of layer {layer} is not resident here"
            connection.send(1, ("refusal", frame, ProtocolError(problem)))
        else:
            connection.send(1, ("answer", frame, num_rows))
