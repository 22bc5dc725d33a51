"""The network: delays, lost and repeated calls, and partitions."""

import asyncio
import contextlib
import enum
from contextvars import copy_context

from galerne.errors import GalerneError
from sim.control.connection import KEEPALIVE_S, Connection
from sim.control.loop import this_process

_LOOK_S = 1.0
_RAY_LOOK_S = 0.1
_AGAIN_S = 0.01


class CallError(Exception):
    """A call that failed: ``status`` is the name of a gRPC status."""

    def __init__(self, status, reason):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Fate(enum.Enum):
    """What becomes of a call."""

    OK = "ok"
    LOST = "lost"  # it never arrives
    UNANSWERED = "unanswered"  # it is served, and nobody hears of it
    TWICE = "twice"  # it is served twice


class Network:
    """Between all processes of a run. Cuts are between names, so they outlive a process."""

    def __init__(self, loop, rng, note):
        self.loop, self._rng, self.note = loop, rng, note
        self.context = copy_context()  # of nobody, so that it works while others are stopped
        self._cuts = set()
        self._connections = []
        self.listening = {}  # what serves, by address
        self.share_of_faults = 0.0
        self.before, self.after = (lambda target, what: None,) * 2  # every call, at its target
        self.errors = []  # of code under test that a caller would see as UNKNOWN
        self._watch = loop.create_task(self._keep_alive())

    def close(self):
        self._watch.cancel()

    def delay_s(self):
        return self._rng.uniform(0.001, 0.4 if self._rng.random() < 0.02 else 0.02)

    def later(self, delay_s, func, *args):
        """Nobody's business in particular."""
        self.loop.call_later(delay_s, func, *args, context=self.context)

    # -- partitions --------------------------------------------------------------------------

    def cut(self, a, b):
        self._cuts.add(frozenset((a, b)))

    def heal(self, a=None, b=None):
        """One cut, or all."""
        self._cuts = set() if a is None else self._cuts - {frozenset((a, b))}
        for connection in list(self._connections):
            connection.flush()

    def is_cut(self, a, b):
        return a.is_cut_off or b.is_cut_off or frozenset((a.name, b.name)) in self._cuts

    async def _keep_alive(self):
        while True:
            await asyncio.sleep(_LOOK_S)
            for connection in list(self._connections):
                connection.look(_LOOK_S)

    # -- calls -------------------------------------------------------------------------------

    async def call(self, address, what, serve, timeout_s):
        """A unary call to what listens at an address: ``serve`` makes its coroutine there.

        Raises CallError.
        """
        source, server = this_process(), self.listening.get(address)
        if not source.is_alive:
            raise asyncio.CancelledError
        try:
            async with asyncio.timeout(timeout_s):
                return await self._call(source, server, what, serve)
        except TimeoutError:
            raise CallError("DEADLINE_EXCEEDED", f"{what}: {timeout_s:g} s") from None

    async def _call(self, source, server, what, serve):
        fate = self._fate()
        await asyncio.sleep(self.delay_s())
        if server is None:
            raise CallError("UNAVAILABLE", "nobody listens")
        target = server.process
        if fate is Fate.LOST or self.is_cut(source, target):
            await self._silence()
        self.before(target, what)
        if not source.is_alive:
            raise asyncio.CancelledError
        if not target.is_alive:
            raise CallError("UNAVAILABLE", "connection refused")
        self.note("call", source, target, what, fate.value)
        serving = target.spawn(_twice(serve, server) if fate is Fate.TWICE else serve(server))
        try:
            await self._until_served(source, target, serving)
        finally:
            if not serving.done():
                self.later(self.delay_s(), serving.cancel)
        self.after(target, what)
        result = self._result(serving, what)
        await asyncio.sleep(self.delay_s())
        if fate is Fate.UNANSWERED or self.is_cut(source, target):
            await self._silence()
        return result

    def _fate(self):
        if self._rng.random() >= self.share_of_faults:
            return Fate.OK
        return self._rng.choice((Fate.LOST, Fate.UNANSWERED, Fate.TWICE))

    async def _silence(self):
        """Nothing is heard until the connection counts as broken."""
        await asyncio.sleep(self._rng.uniform(0.1, KEEPALIVE_S))
        raise CallError("UNAVAILABLE", "the connection broke")

    async def _until_served(self, source, target, serving):
        silent_s = 0.0
        while not serving.done():
            await asyncio.wait({serving}, timeout=_LOOK_S)
            is_silent = target.is_stopped or self.is_cut(source, target)
            silent_s = silent_s + _LOOK_S if is_silent else 0.0
            if silent_s > KEEPALIVE_S:
                raise CallError("UNAVAILABLE", "keepalive")

    def _result(self, serving, what):
        if serving.cancelled():
            raise CallError("UNAVAILABLE", "the connection was reset")
        error = serving.exception()
        if error is None:
            return serving.result()
        if isinstance(error, GalerneError):
            raise CallError(error.status, str(error))
        if isinstance(error, TimeoutError):
            raise CallError("DEADLINE_EXCEEDED", "the engine is in a step")
        self.errors.append((what, error))
        raise CallError("UNKNOWN", repr(error))

    async def ask(self, actor, serve, timeout_s):
        """A call to a Ray actor, which Ray repeats when it has restarted. Raises TimeoutError.

        ``actor`` names what serves now, or None. What is given up is served all the same.
        """
        source = this_process()
        async with asyncio.timeout(timeout_s):
            while True:
                server = actor()
                await asyncio.sleep(self.delay_s())
                if server is None or not server.process.is_alive:
                    await asyncio.sleep(_RAY_LOOK_S)
                    continue
                if await self._is_reachable(source, server):
                    serving = server.process.spawn(serve(server))
                    await asyncio.wait({serving})
                    if not serving.cancelled():
                        await asyncio.sleep(self.delay_s())
                        await self._is_reachable(source, server)
                        return serving.result()

    async def _is_reachable(self, source, server):
        """Wait for it; whether its process still lives then."""
        while self.is_cut(source, server.process):  # noqa: ASYNC110 - cuts tell nobody
            await asyncio.sleep(_RAY_LOOK_S)
        return server.process.is_alive

    # -- connections -------------------------------------------------------------------------

    async def connect(self, address):
        """A connection to what listens at an address, and that. Raises CallError."""
        source, server = this_process(), self.listening.get(address)
        await asyncio.sleep(self.delay_s())
        if server is None:
            raise CallError("UNAVAILABLE", "nobody listens")
        if self.is_cut(source, server.process):
            await self._silence()
        if not server.process.is_alive:
            raise CallError("UNAVAILABLE", "connection refused")
        connection = Connection(self, source, server.process)
        self._connections.append(connection)
        return connection, server

    def forget(self, connection):
        if connection in self._connections:
            self._connections.remove(connection)


async def _twice(serve, server):
    result = await serve(server)
    await asyncio.sleep(_AGAIN_S)
    with contextlib.suppress(GalerneError, TimeoutError):  # nobody hears the second answer
        await serve(server)
    return result
