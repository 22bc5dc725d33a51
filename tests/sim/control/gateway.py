"""A gateway: the real hub of streams over a simulated engine, and what it does in a change."""

import asyncio
from contextlib import aclosing

from cluster.control.ports import GatewayState
from galerne.errors import GalerneError, NotServingError
from galerne.v1 import internal_pb2 as internal
from helpers.fake_gateway import model_facts
from router.engine.gateway_port import GatewayLoad
from router.gateway import switch as switch_module
from router.gateway.codec import decode_request, encode_delta, encode_facts, encode_load
from router.gateway.service import DeltaHub
from router.gateway.switch import NotPreparedError, _not_up
from sim.control.engine import NUM_EXPERTS, NUM_LAYERS, TOP_K, SimEngine
from sim.control.experts import experts_of
from sim.control.part import Part

_PREPARE_LOOK_S = 0.05
_ADDRESS_S = 5.0
_FACTS = encode_facts(model_facts())


class SimGateway(Part):
    """Listens for frontends and for the controller."""

    def serve(self, topology):
        self.hub = DeltaHub()
        self.hub.bind(self._loop)
        self._last_known = {}
        self.engine = SimEngine(self, experts_of(self, topology), self.hub.publish)
        self.switch = SimSwitch(self, topology)
        self._changes = asyncio.Queue()
        self.process.spawn(self._change_for_ever())

    @property
    def epochs(self):
        return (self.switch.topology.epoch,)

    @property
    def links(self):
        return {shard: state.value for shard, state in self.engine.experts.links.items()}

    def link_changed(self, shard, state):
        self.world.note("link", self.process, shard, state.value)
        self.wake()

    async def address_of(self, shard):
        """See ``RayAddressBook``."""
        try:
            found = await self.ask(lambda server: server.it.address_of(shard), _ADDRESS_S)
        except TimeoutError:
            return self._last_known.get(shard)
        self._last_known[shard] = found
        return found

    def _unready_reason(self):
        missing = self.engine.experts.unreachable()
        return f"no link to {', '.join(missing)}" if missing else ""

    # -- asked by the controller: one change at a time, also when a caller left ---------------

    async def prepare_topology(self, topology, timeout_s):
        await self._change(lambda: self.switch.prepare(topology, timeout_s))

    async def shadow(self, epoch):
        return await self._change(lambda: self.switch.shadow(epoch))

    async def commit(self, epoch):
        has_left = asyncio.Event()
        try:
            await self._change(lambda: self.switch.commit(epoch, has_left))
        except asyncio.CancelledError:
            has_left.set()
            raise

    async def abort(self, epoch):
        self.switch.unwanted = epoch  # at once: a preparation may be going on
        await self._change(lambda: self.switch.abort(epoch))

    async def state_of(self):
        num_requests = self.engine.num_requests
        return GatewayState(self.switch.topology, num_requests, self._unready_reason())

    async def _change(self, what):
        done = self._loop.create_future()
        self._changes.put_nowait((what, done))
        return await done

    async def _change_for_ever(self):
        while True:
            what, done = await self._changes.get()
            if done.cancelled():
                continue
            try:
                result = await what()
            except (GalerneError, TimeoutError) as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

    # -- asked by frontends ------------------------------------------------------------------

    async def describe(self):
        return internal.GatewayDescription(
            gateway_id=self.name,
            model=_FACTS,
            load=encode_load(GatewayLoad(running=self.engine.num_requests)),
            unready_reason=self._unready_reason(),
            epoch=self.switch.topology.epoch,
        )

    def accept(self, connection):
        """A stream: the first message is the request."""

        def begin(message):
            task = self.process.spawn(self._submit(connection, message))
            connection.on_break[1] = task.cancel

        connection.on_message[1] = begin

    async def _submit(self, connection, message):
        request = decode_request(message)

        async def accepted():
            connection.send(1, ("accepted",))

        try:
            stream = self.hub.stream(self.engine, request, accepted)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    connection.send(1, ("delta", encode_delta(delta)))
        except GalerneError as error:
            connection.send(1, ("refused", error.status, str(error)))
        else:
            connection.send(1, ("end",))


class SimSwitch:
    """``TopologySwitch``, whose waiting is a thread's, step by step the same."""

    def __init__(self, gateway, topology):
        self.topology = topology
        self.prepared = None  # experts
        self.unwanted = None  # the last epoch that was given up
        self._gateway, self._world, self._engine = gateway, gateway.world, gateway.engine
        self._now_s = asyncio.get_running_loop().time

    async def prepare(self, topology, timeout_s):
        if topology == self.topology:
            return
        if topology.epoch < self.topology.epoch:
            raise NotPreparedError(topology.epoch, self.topology.epoch)
        self.unwanted = None
        if self.prepared is not None:
            await self.abort(self.prepared.topology.epoch)
        deadline_s = self._now_s() + timeout_s
        await asyncio.sleep(self._world.rng.uniform(0.01, 0.2))
        experts = experts_of(self._gateway, topology)
        while missing := _not_up(experts):
            if self._now_s() > deadline_s or self.unwanted == topology.epoch:
                experts.close()
                raise NotServingError(f"no link to {', '.join(missing)} in {timeout_s:g} s")
            await asyncio.sleep(_PREPARE_LOOK_S)
        self.prepared = experts
        self._world.note("prepared", self._gateway.process, topology.epoch)
        if self.unwanted == topology.epoch:
            await self.abort(topology.epoch)

    async def shadow(self, epoch):
        prepared = self._take(epoch)
        for layer in range(NUM_LAYERS):
            await self._between_steps(lambda layer=layer: self._compare(prepared, layer))
        return NUM_LAYERS * NUM_EXPERTS

    async def _compare(self, prepared, layer):
        ids = [list(range(e, e + TOP_K)) for e in range(0, NUM_EXPERTS, TOP_K)]
        for experts in (self._engine.experts, prepared):
            await experts.run(-1, layer, ids, switch_module.PROBE_PATIENCE_S)

    async def commit(self, epoch, has_left):
        if epoch == self.topology.epoch:
            return
        prepared = self._take(epoch)
        try:
            old = await self._between_steps(
                lambda: None if has_left.is_set() else self._swap(prepared),
                self._engine.experts.interrupt,
            )
        except TimeoutError:
            has_left.set()
            raise
        if old is not None:
            old.close()

    def _swap(self, prepared):
        if self.prepared is not prepared:
            return None
        self._world.laws.swaps(self._gateway, prepared.topology)
        old, self._engine.experts = self._engine.experts, prepared
        self.topology, self.prepared = prepared.topology, None
        self._engine.topology_changed()
        return old

    async def abort(self, epoch):
        if self.prepared is not None and self.prepared.topology.epoch == epoch:
            self.prepared.close()
            self.prepared = None

    def _take(self, epoch):
        if self.prepared is None or self.prepared.topology.epoch != epoch:
            raise NotPreparedError(epoch, self.topology.epoch)
        return self.prepared

    async def _between_steps(self, what, interrupt=None):
        done = asyncio.wrap_future(self._engine.between_steps(what))
        if interrupt is not None:
            await asyncio.wait({done}, timeout=switch_module.STEP_PATIENCE_S)
            if not done.done():
                interrupt()
        await asyncio.wait({done}, timeout=switch_module.ENGINE_TIMEOUT_S)
        if not done.done():
            done.add_done_callback(lambda late: late.exception())
            raise TimeoutError
        return done.result()
