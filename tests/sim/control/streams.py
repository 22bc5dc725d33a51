"""The frontends and their streams, and whether each has what it asked for."""

import asyncio
from itertools import count

from galerne.errors import GalerneError, NotServingError
from router.engine.request import FinishReason, GenerationRequest, SamplingParams
from sim.control.engine import token_of
from sim.control.frontend import create_pool
from sim.control.laws import Law

_START_S = 30.0
_LOOK_S = 0.25
_NOTICE_S = 8.0  # until a frontend has learned of a gateway: two rosters that time out, and a look


class Frontend:
    """One process with a pool. Knows when a gateway could be reached from here."""

    def __init__(self, world, name, wait_s):
        self.world, self.wait_s = world, wait_s
        self.process = world.create_process(name)
        self._numbers = count()
        self._reached = []  # [since, until] of times in which a gateway could be reached
        self.open = {}  # streams: tokens that they have
        self.process.spawn(self._look_for_ever())

    async def start(self):
        await self.process.spawn(self._start())

    async def _start(self):
        self.pool = create_pool(self.world, self.wait_s)
        await self.pool.start(_START_S)

    async def close(self):
        await self.process.spawn(self.pool.close())

    def submit(self, rng):
        """Begin a stream."""
        request = self._request(rng)
        self.open[request.request_id] = 0
        self.process.spawn(self._follow(request))

    def _request(self, rng):
        sampling = SamplingParams(seed=rng.randrange(1 << 20), max_tokens=rng.randrange(3, 45))
        prompt = tuple(rng.randrange(100) for _ in range(3))
        name = f"{self.process.name}/{next(self._numbers)}"
        return GenerationRequest(request_id=name, prompt_token_ids=prompt, sampling=sampling)

    async def _follow(self, request):
        name, sampling, laws = request.request_id, request.sampling, self.world.laws
        reason = None
        try:
            async for delta in self.pool.submit(request):
                if delta.offset != self.open[name]:
                    laws.broken(Law.TOKENS, f"{name}: {delta.offset} after {self.open[name]}")
                for token in delta.token_ids:
                    if token != token_of(sampling.seed, self.open[name]):
                        laws.broken(Law.TOKENS, f"{name}: token {self.open[name]} is another's")
                    self.open[name] += 1
                reason = delta.finish_reason or reason
                if delta.error:
                    laws.broken(Law.STREAMS, f"{name}: {delta.error}")
        except GalerneError as error:
            self._check_failure(name, error)
        else:
            if (reason, self.open[name]) != (FinishReason.LENGTH, sampling.max_tokens):
                text = f"{name}: {reason} after {self.open[name]} of {sampling.max_tokens}"
                laws.broken(Law.STREAMS, text)
            self.world.seen["streams"] += 1
        self.world.note("stream", name, self.open[name], reason)
        del self.open[name]

    def _check_failure(self, name, error):
        if "no gateway lives" in str(error) and not self.open[name]:
            return  # refused at once, as it should be
        said = f"no gateway came back in {self.wait_s:g} s; reached {self.open[name]} tokens"
        is_announced = isinstance(error, NotServingError) and said in str(error)
        since_s = self.world.loop.time() - self.wait_s
        spells = [min(until - since_s, until - since) for since, until in self._reached]
        if not is_announced or max(spells, default=0.0) > _NOTICE_S:
            self.world.laws.broken(Law.STREAMS, f"{name}: {type(error).__name__}: {error}")
        self.world.seen["streams that failed"] += 1

    async def _look_for_ever(self):
        """Belongs to nobody who can be stopped: frontends are not."""
        loop, was_reached = self.world.loop, False
        while True:
            is_reached = self._can_reach_one()
            if is_reached and was_reached:
                self._reached[-1][1] = loop.time()
            elif is_reached:
                self._reached.append([loop.time(), loop.time()])
            was_reached = is_reached
            await asyncio.sleep(_LOOK_S)

    def _can_reach_one(self):
        world = self.world
        controller = world.controller
        if not (controller.process.is_alive and controller.is_recovered):
            return False
        if controller.process.is_stopped or world.network.is_cut(self.process, controller.process):
            return False
        current = controller.conductor.current
        return any(
            gateway.name in current.gateways
            and controller.it._members.is_live(gateway.name)
            and not gateway.process.is_stopped
            and not world.network.is_cut(self.process, gateway.process)
            for gateway in world.live_parts("gateway-")
        )
