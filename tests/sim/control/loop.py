"""An event loop in virtual time, and processes on it that can be stopped, continued and killed.

Every callback belongs to the process whose context it carries. Those of a stopped process wait, as
after SIGSTOP, whatever code they run; a killed process' tasks are cancelled, and can reach nobody.
"""

import asyncio
import heapq
from asyncio import events
from contextvars import ContextVar, copy_context

START_S = 1000.0
LOAD_S = (0.02, 0.6)  # of what a real process leaves to a thread

_PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)


class NothingLeftError(Exception):
    """Nobody waits for time or for anything else: the run would stand still for ever."""


class _Handle(events.Handle):
    __slots__ = ()

    def _run(self):
        process = self._context.get(_PROCESS)
        if process is not None and process.is_stopped:
            process.parked.append(self)
        else:
            super()._run()


class _Timer(events.TimerHandle, _Handle):
    __slots__ = ()


class VirtualLoop(asyncio.BaseEventLoop):
    """Jumps to the next timer when nothing is ready. Work for threads is done after a while."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng
        self._virtual_s = START_S
        self._selector = self
        self.set_task_factory(self._create_task)
        self.failures = []
        self.set_exception_handler(lambda loop, context: self.failures.append(context))

    def time(self):
        return self._virtual_s

    def select(self, timeout):
        """The selector's part: nothing comes from outside."""
        if timeout is None:
            raise NothingLeftError
        if timeout > 0:
            self._virtual_s = max(self._virtual_s, self._scheduled[0].when())
        return ()

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def _call_soon(self, callback, args, context):
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when, callback, *args, context=None):
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def run_in_executor(self, executor, func, *args):
        done = self.create_future()

        def run():
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - goes to who waits
                done.set_exception(error)

        self.call_later(self._rng.uniform(*LOAD_S), run)
        return done

    def _create_task(self, loop, coro, context=None):
        born = repr(self._virtual_s)
        task = asyncio.Task(coro, loop=loop, context=context, name=born)
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is not None:
            process.own(task)
        return task


class Process:
    """Something that lives and dies on its own. ``on_death`` is called once."""

    def __init__(self, loop, name, number):
        self.name, self.number = name, number
        self.is_alive, self.is_stopped = True, False
        self.is_cut_off = False  # from everybody
        self.parked = []
        self.on_death = []
        self._loop = loop
        self._tasks = {}
        self._context = copy_context()
        self._context.run(_PROCESS.set, self)

    def __repr__(self):
        return f"{self.name}#{self.number}"

    def own(self, task):
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def spawn(self, coro):
        """Run a coroutine in this process."""
        if not self.is_alive:
            coro.close()
            raise AssertionError(f"{self} is dead")
        return self._loop.create_task(coro, context=self._context.copy())

    def call(self, func, *args):
        """Run a function in this process, now."""
        return self._context.copy().run(func, *args)

    def call_soon(self, func, *args):
        """Let this process do something when it can; never if it is dead."""
        if self.is_alive:
            self._loop.call_soon(self._unless_dead, func, args, context=self._context)

    def _unless_dead(self, func, args):
        if self.is_alive:
            func(*args)

    def stop(self):
        self.is_stopped = True

    def go_on(self):
        self.is_stopped = False
        parked, self.parked = self.parked, []
        self._loop._ready.extend(parked)

    def kill(self):
        if not self.is_alive:
            return
        self.is_alive = False
        self.go_on()
        for task in list(self._tasks):
            task.cancel()
        for told in self.on_death:
            told(self)


def this_process():
    return _PROCESS.get()
