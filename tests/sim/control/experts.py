"""Routed experts of a gateway: the real exchange session, over links that are simulated."""

import asyncio

import numpy as np

from galerne.errors import EpochRetiredError, GalerneError, ShardUnavailableError
from galerne.ids import ShardId
from galerne.topology import LinkTransport
from router.exchange.deadline import ExchangeConfig
from router.exchange.grpc_link import LinkConfig
from router.exchange.links import LinkState
from router.exchange.session import ExchangeSession
from sim.control.network import CallError

_LINK = LinkConfig()
_LOCAL_S = 0.01
_MAX_WAIT_S = 0.5
_CONFIG = ExchangeConfig()


def experts_of(gateway, topology):
    """See ``ExpertSources``."""
    is_local = topology.transport is LinkTransport.LOCAL
    return (LocalExperts if is_local else RemoteExperts)(gateway, topology)


class LocalExperts:
    """Every expert is in the gateway."""

    def __init__(self, gateway, topology):
        self.topology = topology
        self.links = dict.fromkeys(topology.shards, LinkState.UP)

    async def run(self, step, layer, expert_ids, patience_s=None):
        await asyncio.sleep(_LOCAL_S)

    def interrupt(self):
        pass

    def unreachable(self):
        return []

    def close(self):
        pass


class RemoteExperts:
    """Links to the shards of one topology."""

    def __init__(self, gateway, topology):
        self.topology = topology
        self._gateway = gateway
        self._session = ExchangeSession(topology, _CONFIG, gateway.link_changed)
        self._now_s = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._connections = {}  # that stand, by shard
        self._calls = {}  # (step, layer) of those that are away
        self._is_interrupted = False
        self._tasks = [gateway.process.spawn(self._keep_up(shard)) for shard in topology.shards]

    @property
    def links(self):
        return self._session.links.state

    def unreachable(self):
        return self._session.unreachable()

    def close(self):
        for task in self._tasks:
            task.cancel()

    def interrupt(self):
        """See ``RoutedExperts``."""
        self._is_interrupted = True
        self._changed.set()

    async def run(self, step, layer, expert_ids, patience_s=None):
        """Have the rows of ``[T, K]`` experts computed. See ``ExpertExchange.complete``.

        Raises GalerneError.
        """
        begun_s = self._now_s()
        self._is_interrupted = False
        call, actions = self._session.begin(layer, np.asarray(expert_ids), begun_s)
        self._calls[call] = step, layer
        self._perform(actions)
        try:
            while not self._session.is_complete(call):
                if self._is_interrupted:
                    raise EpochRetiredError(self.topology.epoch)
                waited_s = self._now_s() - begun_s
                if patience_s is not None and waited_s > patience_s:
                    raise ShardUnavailableError(self._session.missing_shards(call), waited_s)
                await self._wait_once()
        finally:
            del self._calls[call]
            self._session.end(call)

    async def _wait_once(self):
        self._changed.clear()
        deadline_s = self._session.next_deadline_s()
        wait_s = min(max(deadline_s - self._now_s(), 0.0), _MAX_WAIT_S)
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            self._perform(self._session.on_time(self._now_s()))

    def _perform(self, actions):
        for action in actions:
            step, layer = self._calls[action.call]
            connection = self._connections.get(action.shard)
            if connection is None:
                continue  # dropped; the session asks again
            rows = action.rows
            experts = tuple(map(int, rows.expert_ids))
            gateway, epoch = self._gateway, self.topology.epoch
            content = (gateway, step, epoch, layer, experts, len(rows.slots))
            connection.send(0, ("frame", action.frame, *content))

    # -- links -------------------------------------------------------------------------------

    async def _keep_up(self, shard: ShardId):
        """See ``GrpcLink.run``."""
        backoff_s, patience_s = _LINK.backoff_min_s, _LINK.connect_timeout_min_s
        while True:
            broke = asyncio.Event()
            connection = None
            try:
                patience_s = min(patience_s, _LINK.connect_timeout_s)
                connection = await self._connect(shard, broke, patience_s)
                backoff_s, patience_s = _LINK.backoff_min_s, _LINK.connect_timeout_min_s
                await broke.wait()
            except (CallError, TimeoutError, GalerneError):
                pass
            finally:
                if connection is not None:
                    connection.close(0)
                    self._connections.pop(shard, None)
            if connection is not None:
                self._perform(self._session.on_link_down(shard, self._now_s()))
                self._changed.set()
            await asyncio.sleep(backoff_s)
            backoff_s, patience_s = min(backoff_s * 2, _LINK.backoff_max_s), patience_s * 2

    async def _connect(self, shard, broke, timeout_s):
        address = await self._gateway.address_of(shard)
        if address is None:
            raise CallError("UNAVAILABLE", "no address is known")
        async with asyncio.timeout(timeout_s):
            connection, server = await self._gateway.world.network.connect(address)
            server.accept(connection)
            greeted = asyncio.get_running_loop().create_future()

            def hear(message):
                if greeted.done():
                    self._take(shard, *message)
                else:
                    greeted.set_result(message)

            connection.on_message[0] = hear
            connection.on_break[0] = lambda: greeted.cancel() or broke.set()
            connection.send(0, ("hello", self.topology.epoch))
            try:
                kind, *error = await _result_of(greeted)
            except BaseException:
                connection.close(0)
                raise
        if kind == "refused":
            connection.close(0)
            raise error[0]
        self._connections[shard] = connection
        self._perform(self._session.on_link_up(shard, self._now_s()))
        self._changed.set()
        return connection

    def _take(self, shard, kind, *fields):
        session, now_s = self._session, self._now_s()
        if kind == "answer":
            session.on_answer(shard, *fields, now_s)
        elif kind == "refusal":
            self._perform(session.on_refusal(shard, *fields, now_s))
        else:
            self._perform(session.on_adopted(shard, *fields, now_s))
        self._changed.set()


async def _result_of(greeted):
    """Raises CallError if the connection breaks."""
    await asyncio.wait({greeted})
    if greeted.cancelled():
        raise CallError("UNAVAILABLE", "the connection broke")
    return greeted.result()
