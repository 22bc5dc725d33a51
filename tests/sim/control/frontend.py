"""A frontend: the real pool and its members, over a channel that is simulated."""

import asyncio

import grpc

from galerne.ids import GatewayId
from router.gateway.member import ACCEPTED, Member
from router.gateway.pool import GatewayPool
from sim.control.loop import this_process
from sim.control.network import CallError

_DIRECTORY_S = 5.0


def rpc_error(status, reason):
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode[status], metadata, metadata, reason)


class SimDirectory:
    """Implements ``Directory`` as ``RayDirectory`` does. Raises TimeoutError."""

    def __init__(self, world):
        self._world = world

    async def roster(self, *, with_metrics=False):
        def serve(server):
            return server.it.roster()

        return await self._world.network.ask(lambda: self._world.controller, serve, _DIRECTORY_S)


class SimMember(Member):
    """``Member`` with another channel."""

    def __init__(self, world, gateway, address, token):
        self.gateway, self.address = GatewayId(gateway), address
        self.in_flight = self.num_misses = 0
        self._has_left = False
        self._tls = self._tls_version = None
        self._metadata = (("token", token),)
        self._calls = set()
        self._channel = _Channel()
        self._stub = _Stub(world, address, self._channel)


class _Channel:
    def __init__(self):
        self.calls = set()
        self.is_closed = False

    async def close(self):
        self.is_closed = True
        for call in list(self.calls):
            call.cancel()


class _Stub:
    """The methods that ``Member`` uses."""

    def __init__(self, world, address, channel):
        self._world, self._address, self._channel = world, address, channel

    def Submit(self, request, metadata):
        return _Stream(self._world, self._address, self._channel, request)

    async def DescribeGateway(self, request, metadata, timeout):  # noqa: ASYNC109 - as grpc has it
        def serve(server):
            return server.describe()

        try:
            return await self._world.network.call(self._address, "describe", serve, timeout)
        except CallError as error:
            raise rpc_error(error.status, error.reason) from None


class _Stream:
    """A server stream as grpc.aio shows it to the client: what is cancelled raises so."""

    def __init__(self, world, address, channel, request):
        self._world, self._address, self._channel = world, address, channel
        self._request = request
        self._received = asyncio.Queue()
        self._connection = None
        self._is_accepted = world.loop.create_future()
        self._is_over = False
        channel.calls.add(self)
        self._begun = this_process().spawn(self._begin())

    async def _begin(self):
        try:
            connection, server = await self._world.network.connect(self._address)
        except CallError as error:
            self._take("refused", error.status, error.reason)
            return
        self._connection = connection
        connection.on_message[0] = lambda message: self._take(*message)
        connection.on_break[0] = lambda: self._take("refused", "UNAVAILABLE", "broken")
        server.accept(connection)
        connection.send(0, self._request)

    def _take(self, kind, *fields):
        if not self._is_accepted.done():
            self._is_accepted.set_result(kind == "accepted")
        if kind != "accepted":
            self._received.put_nowait((kind, *fields))

    async def initial_metadata(self):
        await asyncio.wait({self._is_accepted})
        return ((ACCEPTED, "1"),) if self._is_accepted.result() else None

    def __aiter__(self):
        return self

    async def __anext__(self):
        kind, *fields = await self._received.get()
        if kind == "delta":
            return fields[0]
        self._end()
        if kind == "end":
            raise StopAsyncIteration
        if kind == "cancelled":
            raise asyncio.CancelledError
        raise rpc_error(*fields)

    def cancel(self):
        if not self._is_over:
            self._take("cancelled")
            self._end()

    def _end(self):
        self._is_over = True
        self._channel.calls.discard(self)
        self._begun.cancel()
        if self._connection is not None:
            self._connection.close(0)


def create_pool(world, wait_s):
    return GatewayPool(
        SimDirectory(world),
        "",
        wait_s,
        create_member=lambda gateway, address, token: SimMember(world, gateway, address, token),
        now_s=world.loop.time,
    )
