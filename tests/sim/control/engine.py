"""A gateway's engine: commands between steps, and steps that give every running request a token."""

import asyncio
import inspect
from concurrent.futures import Future
from itertools import count

from galerne.errors import EpochRetiredError, GalerneError
from router.engine.engine import RETIRED_PATIENCE_S, RETIRED_WAIT_S
from router.engine.request import FinishReason, TokenDelta

NUM_LAYERS, NUM_EXPERTS, TOP_K = 2, 8, 2
_STEP_S = (0.1, 0.4)
_MAX_ROWS = 4


def token_of(seed, position):
    """The token of a request at a position: whoever computes it, and whenever."""
    return (seed * 7_368_787 + position * 104_729 + seed * position) % 32_749


class Run:
    """One choice of a request."""

    def __init__(self, request):
        self.request = request
        self.position = len(request.resumed[0].token_ids) if request.resumed else 0

    def delta(self, *tokens, reason=None, error=""):
        delta = TokenDelta(
            request_id=self.request.request_id,
            choice=0,
            offset=self.position,
            token_ids=tokens,
            finish_reason=reason,
            error=error,
        )
        self.position += len(tokens)
        return delta

    def step(self):
        sampling = self.request.sampling
        is_last = self.position + 1 >= sampling.max_tokens
        token = token_of(sampling.seed, self.position)
        return self.delta(token, reason=FinishReason.LENGTH if is_last else None), is_last


class SimEngine:
    """As ``Engine`` for who submits, aborts, or does something between two steps."""

    is_closed = False

    def __init__(self, gateway, experts, on_deltas):
        self.experts = experts
        self._gateway, self._world, self._on_deltas = gateway, gateway.world, on_deltas
        self._runs = {}
        self._commands = []
        self._woken = asyncio.Event()
        self._steps = count()
        self._retired_since_s = None
        gateway.process.spawn(self._turn_for_ever())

    @property
    def num_requests(self):
        return len(self._runs)

    def submit(self, request, guides=()):
        return self.between_steps(lambda: self._runs.update({request.request_id: Run(request)}))

    def abort(self, request_id, choice=None):
        return self.between_steps(lambda: self._abort(request_id))

    def between_steps(self, what):
        """``what`` may be a coroutine function: then nothing else runs meanwhile."""
        future = Future()
        self._commands.append((what, future))
        self._woken.set()
        return future

    def topology_changed(self):
        self._retired_since_s = None

    def _abort(self, request_id):
        run = self._runs.pop(request_id, None)
        if run is not None:
            self._on_deltas([run.delta(reason=FinishReason.ABORT)])
        return run is not None

    async def _turn_for_ever(self):
        while True:
            while self._commands:
                await self._obey(*self._commands.pop(0))
            if self._runs:
                await self._step()
            else:
                self._woken.clear()
                await self._woken.wait()

    async def _obey(self, what, future):
        is_wanted = future.set_running_or_notify_cancel()
        try:
            result = what()
            if inspect.isawaitable(result):
                result = await result
        except GalerneError as error:
            if is_wanted:
                future.set_exception(error)
        else:
            if is_wanted:
                future.set_result(result)

    async def _step(self):
        step, experts, runs = next(self._steps), self.experts, list(self._runs.values())
        await asyncio.sleep(self._world.rng.uniform(*_STEP_S))
        try:
            for layer in range(NUM_LAYERS):
                await experts.run(step, layer, _routing(step, layer, min(len(runs), _MAX_ROWS)))
        except EpochRetiredError as error:
            await self._drop(step, error)
            return
        except GalerneError as error:
            self._world.note("step_failed", self._gateway.process, step, str(error))
            self._end(runs, str(error))
            return
        deltas = []
        for run in runs:
            delta, is_last = run.step()
            deltas.append(delta)
            if is_last:
                del self._runs[run.request.request_id]
        self._retired_since_s = None
        self._on_deltas(deltas)

    async def _drop(self, step, error):
        """Its engine ends when no topology comes, and with it the process."""
        self._world.note("step_dropped", self._gateway.process, step, str(error))
        now_s = asyncio.get_running_loop().time()
        self._retired_since_s = self._retired_since_s or now_s
        if now_s > self._retired_since_s + RETIRED_PATIENCE_S:
            self._gateway.exit()
        await asyncio.sleep(RETIRED_WAIT_S)

    def _end(self, runs, error):
        for run in runs:
            del self._runs[run.request.request_id]
        self._on_deltas([run.delta(reason=FinishReason.ERROR, error=error) for run in runs])


def _routing(step, layer, num_tokens):
    """``[T, K]`` experts, all of them in turn, ascending."""
    firsts = [(step * 3 + layer * 5 + token * 2) % NUM_EXPERTS for token in range(num_tokens)]
    return [sorted((e + k * 3) % NUM_EXPERTS for k in range(TOP_K)) for e in firsts]
