"""The running cluster as the autoscaler's loop sees it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cluster.control.conductor import Stage, TopologyConductor
from cluster.control.scaling_plan import candidate_of, wish_of
from cluster.control.standing import Spread
from cluster.control.traffic import TrafficBook
from cluster.planning.candidate import Candidate
from cluster.planning.cluster_shape import ClusterShape
from cluster.planning.decision import Measured
from cluster.planning.observed import Observed
from cluster.planning.refresh import ObservedSteps
from router.api.cluster_port import TopologyWish

_FRESH_S = 3.0  # a frontend that holds requests says so every second


class DemandBook:
    """Requests that frontends hold while no gateway serves."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._held: dict[str, tuple[int, float]] = {}

    def hear(self, frontend: str, num_held: int) -> None:
        """What a frontend says."""
        self._held[frontend] = (num_held, self._now_s())

    @property
    def num_held(self) -> int:
        """Of all that have said so lately."""
        fresh_s = self._now_s() - _FRESH_S
        return sum(num for num, heard_s in self._held.values() if heard_s >= fresh_s)


class LiveCluster:
    """Implements ``ScaledCluster``."""

    def __init__(
        self,
        conductor: TopologyConductor,
        traffic: TrafficBook,
        demand: DemandBook,
        shape: Callable[[], ClusterShape],
        nodes_of: Callable[[], tuple[int, int]],
        change: Callable[[TopologyWish, Spread], Awaitable[None]],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``nodes_of``: machines with a gateway, and with shards alone. ``change``: to its end."""
        self._conductor = conductor
        self._traffic = traffic
        self._demand = demand
        self._shape = shape
        self._nodes_of = nodes_of
        self._change = change
        self._now_s = now_s
        self.sleep = conductor.sleep

    @property
    def current(self) -> Candidate | None:
        """See ``ScaledCluster``."""
        if self._conductor.is_asleep:
            return None
        return candidate_of(self._conductor.current, *self._nodes_of())

    @property
    def shape(self) -> ClusterShape:
        """See ``ScaledCluster``."""
        return self._shape()

    @property
    def is_changing(self) -> bool:
        """See ``ScaledCluster``."""
        return self._conductor.stage is not Stage.IDLE

    @property
    def away(self) -> tuple[str, ...]:
        """See ``ScaledCluster``."""
        return self._conductor.away

    def observe(self, now_s: float) -> Observed:
        """See ``ScaledCluster``. What frontends hold waits too."""
        seen, num_held = self._traffic.observe(now_s), self._demand.num_held
        if not num_held:
            return seen
        return replace(seen, waiting=seen.waiting + num_held, idle_s=0.0)

    def start_period(self) -> None:
        """See ``ScaledCluster``."""
        self._traffic.start_period(self._now_s())

    def measured(self) -> tuple[Measured, tuple[float | None, int]]:
        """See ``ScaledCluster``."""
        return self._traffic.measured(self._now_s())

    def take_steps(self) -> ObservedSteps | None:
        """See ``ScaledCluster``."""
        current = self.current
        return None if current is None else self._traffic.take_steps(current, self._now_s())

    async def change(self, target: Candidate) -> None:
        """See ``ScaledCluster``."""
        await self._change(wish_of(target), Spread(target.gateway_nodes, target.shard_nodes))
