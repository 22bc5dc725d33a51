"""The gateways of a simulated cluster, and which one a request goes to."""

from __future__ import annotations

import random

from cluster.planning.candidate import Candidate
from cluster.simulator.batched import BatchedGateway
from cluster.simulator.exact import ExactGateway
from cluster.simulator.timing import Gateway, Listener, ModelOf, Peers
from cluster.simulator.workload import Arrival


class Fleet:
    """Gateways on one virtual clock; each is advanced only when somebody looks at it.

    A request goes to the least loaded of ``num_looked_at`` gateways drawn at random (all of them
    if there are no more), as the real frontends do over all gateways but for prefix affinity, which
    has no meaning without prompts. With two looked at of a thousand, the fullest queue is a little
    longer than with all, and a request costs a simulation step on two gateways, not on a thousand.
    How many others are in a step at the same time (they share shards) is known as of the last look.
    """

    def __init__(
        self,
        model_of: ModelOf,
        listener: Listener,
        *,
        is_exact: bool,
        num_looked_at: int,
        seed: int,
    ) -> None:
        self._model_of = model_of
        self._listener = listener
        self._is_exact = is_exact
        self._num_looked_at = num_looked_at
        self._chance = random.Random(seed)  # noqa: S311  # spreads load, guards nothing
        self._peers = Peers()
        self._gateways: list[Gateway] = []
        self._leaving: list[Gateway] = []
        self._held: list[Arrival] = []  # came at zero; frontends hold them

    @property
    def num_held(self) -> int:
        """Requests that no gateway could take yet."""
        return len(self._held)

    def counts(self, now_s: float) -> tuple[int, int]:
        """Requests that wait and that run now, in all gateways."""
        self.advance(now_s)
        everyone = [*self._gateways, *self._leaving]
        waiting = sum(g.num_waiting for g in everyone) + len(self._held)
        return waiting, sum(g.num_running for g in everyone)

    def advance(self, until_s: float) -> None:
        """Let every gateway run; forget those that were leaving and are empty."""
        for gateway in (*self._gateways, *self._leaving):
            self._run(gateway, until_s)
        self._leaving = [g for g in self._leaving if g.num_waiting or g.num_running]

    def arrive(self, arrival: Arrival) -> None:
        """Send a request to a gateway, or hold it while there is none."""
        if not self._gateways:
            self._held.append(arrival)
            return
        self._add(arrival, arrival.at_s)

    def commit(self, now_s: float, candidate: Candidate | None) -> None:
        """Switch to another shape between two steps; who runs stays where it runs.

        Gateways beyond the new number take no new requests, step with the new times and leave when
        empty (design, section 7). Those that are kept are the first ones.
        """
        self.advance(now_s)
        num = 0 if candidate is None else candidate.gateways
        self._leaving += self._gateways[num:]
        del self._gateways[num:]
        if candidate is None:
            return
        model = self._model_of(candidate)
        for gateway in (*self._gateways, *self._leaving):
            gateway.reconfigure(model)
        make = ExactGateway if self._is_exact else BatchedGateway
        while len(self._gateways) < num:
            self._gateways.append(make(model, self._listener, self._peers, now_s))
        held, self._held = self._held, []
        for prompted in held:
            gateway = self._add(prompted, now_s)
            gateway.time_s = max(gateway.time_s, now_s)

    def _run(self, gateway: Gateway, until_s: float) -> None:
        gateway.advance(until_s)
        self._peers.saw(gateway, has_work=bool(gateway.num_waiting or gateway.num_running))

    def _add(self, arrival: Arrival, now_s: float) -> Gateway:
        gateway = self._choose(now_s)
        gateway.add(*arrival)
        self._peers.saw(gateway, has_work=True)
        return gateway

    def _choose(self, now_s: float) -> Gateway:
        if self._num_looked_at < len(self._gateways):
            looked_at = self._chance.sample(self._gateways, self._num_looked_at)
        else:
            looked_at = self._gateways
        for gateway in looked_at:
            self._run(gateway, now_s)
        least = min(g.num_waiting + g.num_running for g in looked_at)
        near = [g for g in looked_at if g.num_waiting + g.num_running == least]
        return near[0] if len(near) == 1 else self._chance.choice(near)
