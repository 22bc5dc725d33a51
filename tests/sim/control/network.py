"""The network: delays, lost and repeated calls, partitions, and connections that break."""

import asyncio
import enum
from contextvars import copy_context
from functools import partial

from galerne.errors import GalerneError
from sim.control.loop import this_process

KEEPALIVE_S = 15.0  # silence after which a connection counts as broken: see CHANNEL_OPTIONS
_LOOK_S = 1.0
_RAY_LOOK_S = 0.1
_AGAIN_S = 0.01
_IN_TURN_S = 1e-6  # timers of the same time go off in any order


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
        self._loop, self._rng, self.note = loop, rng, note
        self._context = copy_context()  # of nobody, so that it works while others are stopped
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
        self._loop.call_later(delay_s, func, *args, context=self._context)

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
        while self.is_cut(source, server.process):
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


class Connection:
    """Messages in order, both ways. The client is end 0, the server end 1."""

    def __init__(self, network, client, server):
        self._network, self.ends = network, (client, server)
        self._due_s = [0.0, 0.0]
        self._held = []  # arrived while cut
        self._gone = set()  # ends that have closed
        self._told = set()  # ends that know that it is over
        self._silent_s = 0.0
        self.on_message = [None, None]
        self.on_break = [None, None]
        for number, process in enumerate(self.ends):
            process.on_death.append(partial(self._died, number))

    def _died(self, number, process):
        self.close(number)

    def send(self, number, message):
        """From an end to the other."""
        if self._told or self._gone:
            return
        loop, other = self._network._loop, 1 - number
        due_s = loop.time() + self._network.delay_s()
        self._due_s[other] = max(self._due_s[other] + _IN_TURN_S, due_s)
        arrive = partial(self._arrive, other, partial(self._deliver, other, message))
        loop.call_at(self._due_s[other], arrive, context=self._network._context)

    def close(self, number):
        """An end wants no more of it."""
        if number in self._told:
            return
        self._told.add(number)
        self._gone.add(number)
        other = 1 - number
        tell = partial(self._arrive, other, partial(self._break, other))
        self._network.later(self._network.delay_s(), tell)

    def flush(self):
        if not self._network.is_cut(*self.ends):
            held, self._held = self._held, []
            for act in held:
                act()

    def look(self, passed_s):
        """Silence for too long breaks it."""
        is_silent = self._network.is_cut(*self.ends) or any(end.is_stopped for end in self.ends)
        self._silent_s = self._silent_s + passed_s if is_silent else 0.0
        if self._silent_s > KEEPALIVE_S:
            self._break(0)
            self._break(1)

    def _arrive(self, number, act):
        if self._network.is_cut(*self.ends):
            self._held.append(act)
        else:
            act()

    def _deliver(self, number, message):
        if number not in self._told and self.on_message[number] is not None:
            self.ends[number].call_soon(self._hand_over, number, message)

    def _hand_over(self, number, message):
        if number not in self._told:
            self.on_message[number](message)

    def _break(self, number):
        if number not in self._told:
            self._told.add(number)
            if self.on_break[number] is not None:
                self.ends[number].call_soon(self.on_break[number])
        if len(self._told) == 2:
            self._network.forget(self)


async def _twice(serve, server):
    result = await serve(server)
    await asyncio.sleep(_AGAIN_S)
    try:
        await serve(server)
    except (GalerneError, TimeoutError):
        pass  # nobody hears the second answer
    return result
