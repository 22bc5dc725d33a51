"""The controller as seen from frontends and gateways: who serves, and where.

Imports Ray late, as whoever starts Ray may import this before.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from cluster.control.starting import StartReport
from galerne.adapters import AdapterInfo
from galerne.errors import GalerneError, NotServingError
from galerne.ids import ShardId
from router.api.cluster_port import (
    DecisionFacts,
    EventFacts,
    ExpertLoadFacts,
    ScalerFacts,
    TopologyFacts,
    TopologyWish,
    WhatIfFacts,
    WhatIfQuestion,
)
from router.api.peers import DrainFacts, FrontendNews, FrontendOrders
from router.gateway.roster import Roster

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
_PLAN_TIMEOUT_S = 15.0  # of thousands of candidates
_LOAD_TIMEOUT_S = 300.0  # of an adapter by all parts


class ControllerHandle:
    """A named actor, looked up when first needed and again after it has died for good."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self._namespace = namespace
        self._handle: Any = None

    def handle(self) -> Any:  # noqa: ANN401 - Ray's handles have no types
        """Blocks for a call to Ray's head when the actor is not known.

        Raises:
            ValueError: There is no such actor.
        """
        import ray

        if self._handle is None:
            self._handle = ray.get_actor(self.name, namespace=self._namespace)
        return self._handle

    def failed(self, error: BaseException) -> None:
        """It did not answer. The handle is kept while the actor may come back under it.

        By name it could not be found while Ray's head is away.
        """
        import ray

        if isinstance(error, ray.exceptions.ActorDiedError):
            self._handle = None


class RayDirectory:
    """Implements ``Directory`` and ``ClusterPort`` by asking the controller, on one event loop."""

    def __init__(self, controller_name: str, namespace: str) -> None:
        self._controller = ControllerHandle(controller_name, namespace)
        self._id = secrets.token_hex(8)  # which frontend asks

    async def roster(self, *, with_metrics: bool = False) -> Roster:
        """The roster now.

        Raises:
            NotServingError: The controller did not answer in time; names it.
        """
        roster: Roster = await self._ask("roster", with_metrics)
        return roster

    async def start_report(self) -> StartReport:
        """How far the parts have come with their start.

        Raises:
            NotServingError: As ``roster``.
        """
        report: StartReport = await self._ask("start_report")
        return report

    async def demand(self, num_held: int) -> None:
        """See ``Directory``.

        Raises:
            NotServingError: As ``roster``.
        """
        await self._ask("demand", self._id, num_held)

    async def frontend_news(self, news: FrontendNews) -> FrontendOrders:
        """See ``NewsPort``."""
        orders: FrontendOrders = await self._ask("frontend_news", self._id, news)
        return orders

    async def drain(self, order: str, deadline_s: float) -> DrainFacts:
        """See ``ClusterPort``."""
        facts: DrainFacts = await self._ask("drain", order, deadline_s)
        return facts

    async def topology(self) -> TopologyFacts:
        """See ``ClusterPort``."""
        facts: TopologyFacts = await self._ask("topology")
        return facts

    async def set_topology(self, wish: TopologyWish) -> TopologyFacts:
        """See ``ClusterPort``."""
        facts: TopologyFacts = await self._ask("set_topology", wish)
        return facts

    async def adapters(self) -> Sequence[AdapterInfo]:
        """See ``ClusterPort``."""
        adapters: Sequence[AdapterInfo] = await self._ask("adapters")
        return adapters

    async def load_adapter(self, name: str, directory: str) -> AdapterInfo:
        """See ``ClusterPort``."""
        info: AdapterInfo = await self._ask(
            "load_adapter", name, directory, timeout_s=_LOAD_TIMEOUT_S
        )
        return info

    async def unload_adapter(self, name: str, deadline_s: float) -> AdapterInfo:
        """See ``ClusterPort``."""
        timeout_s = 2 * (deadline_s + _LOAD_TIMEOUT_S)
        info: AdapterInfo = await self._ask("unload_adapter", name, deadline_s, timeout_s=timeout_s)
        return info

    async def set_log_level(self, level: str, part: str) -> Sequence[str]:
        """See ``ClusterPort``."""
        parts: Sequence[str] = await self._ask("set_log_level", level, part)
        return parts

    async def events(self, after: int) -> Sequence[EventFacts]:
        """See ``ClusterPort``."""
        events: Sequence[EventFacts] = await self._ask("events", after)
        return events

    async def expert_load(self) -> ExpertLoadFacts:
        """See ``ClusterPort``."""
        facts: ExpertLoadFacts = await self._ask("expert_load")
        return facts

    async def explain(self, number: int | None = None) -> ScalerFacts:
        """See ``ClusterPort``."""
        facts: ScalerFacts = await self._ask("explain", number)
        return facts

    async def decisions(self, after: int) -> Sequence[DecisionFacts]:
        """See ``ClusterPort``."""
        decisions: Sequence[DecisionFacts] = await self._ask("decisions", after)
        return decisions

    async def what_if(self, question: WhatIfQuestion) -> WhatIfFacts:
        """See ``ClusterPort``."""
        answer: WhatIfFacts = await self._ask("what_if", question, timeout_s=_PLAN_TIMEOUT_S)
        return answer

    async def _ask(self, method: str, *arguments: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:  # noqa: ANN401
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                actor = await asyncio.to_thread(self._controller.handle)
                return await getattr(actor, method).remote(*arguments)
        except Exception as error:
            # Border to Ray: an error of ours comes inside one of its own; whatever else went
            # wrong, the controller is away.
            cause = getattr(error, "cause", None)
            if isinstance(cause, GalerneError):
                raise cause from None
            self._controller.failed(error)
            waited_s = time.monotonic() - started_s
            reason = f"controller {self._controller.name} gave no answer in {waited_s:.1f} s"
            raise NotServingError(reason) from error


class RayAddressBook:
    """Implements ``AddressBook``: shards' addresses, kept while the controller is away."""

    def __init__(self, controller_name: str, namespace: str) -> None:
        self._controller = ControllerHandle(controller_name, namespace)
        self._last_known: dict[ShardId, str | None] = {}
        self._lock = threading.Lock()

    def address_of(self, shard: ShardId) -> str | None:
        """Where a shard listens, None if nobody knows. Blocks for up to ``CALL_TIMEOUT_S``."""
        try:
            address = self._ask(shard)
        except Exception as error:  # noqa: BLE001 - border to Ray: the controller is away
            logger.warning("address_lookup_failed shard=%s reason=%s", shard, type(error).__name__)
            self._controller.failed(error)
            with self._lock:
                return self._last_known.get(shard)
        with self._lock:
            self._last_known[shard] = address
        return address

    def _ask(self, shard: ShardId) -> str | None:
        import ray

        future = self._controller.handle().address_of.remote(shard)
        address: str | None = ray.get(future, timeout=CALL_TIMEOUT_S)
        return address
