"""Who serves, as frontends are told; and whether the controller's own loops move."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cluster.control.conductor import TopologyConductor
from cluster.control.members import GONE_AFTER_S, MemberBook
from cluster.control.ports import Loop
from galerne.adapters import AdapterInfo
from router.engine.gateway_port import PartFacts
from router.gateway.roster import Roster

STALLED_AFTER_S = 120.0  # several times the longest turn

Described = dict[str, dict[str, Any]]


class LoopWatch:
    """Notices a loop that has stopped without having ended."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._seen: dict[str, tuple[int, float]] = {}

    def stalled(self, loops: Mapping[str, Loop]) -> str:
        """Names of the loops that have made no turn for long; empty if there are none."""
        now_s = self._now_s()
        for name, loop in loops.items():
            if self._seen.get(name, (-1, 0.0))[0] != loop.turns:
                self._seen[name] = (loop.turns, now_s)
        return ", ".join(name for name in loops if now_s - self._seen[name][1] > STALLED_AFTER_S)


class RosterView:
    """Puts the roster together."""

    def __init__(
        self,
        conductor: TopologyConductor,
        members: MemberBook,
        describe: Callable[[Sequence[str]], Awaitable[Described]],
        metrics_text: Callable[[], bytes],
        loops: Callable[[], Mapping[str, Loop]],
        adapters: Callable[[], tuple[AdapterInfo, ...]] = tuple,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``describe``: asks these parts; those that do not answer are left out."""
        self._conductor = conductor
        self._members = members
        self._ask = describe
        self._metrics_text = metrics_text
        self.beside: dict[str, bytes] = {}  # metrics of processes that are no parts
        self.frontend_metrics: Callable[[], Mapping[str, bytes]] = dict  # of each frontend
        self._loops = loops
        self._adapters = adapters
        self._now_s = now_s
        self._born_s = now_s()
        self._watch = LoopWatch(now_s)

    async def roster(self, *, with_metrics: bool) -> Roster:
        """Gateways and shards that live; facts and metrics of every part if asked for."""
        topology, is_asleep = self._conductor.current, self._conductor.is_asleep
        members = self._members.members
        live = {p: m.told.address for p, m in members.items() if self._members.is_live(p)}
        described = await self._ask(list(live)) if with_metrics else {}
        return Roster(
            is_settled=self.is_settled,
            pause=self.pause,
            stalled=self._watch.stalled(self._loops()),
            adapters=self._adapters(),
            mode=topology.mode.value,
            epoch=topology.epoch,
            transport=topology.transport.value,
            micro_batches=topology.num_micro_batches,
            max_num_seqs=topology.max_num_seqs,
            max_batched_tokens=topology.max_batched_tokens,
            gateways={g: live[g] for g in topology.gateways if g in live and not is_asleep},
            shards={s: live[s] for s in topology.shards if s in live},
            parts=tuple(self._facts(p, described.get(p, {})) for p in sorted(members)),
            process_metrics={
                "controller": self._metrics_text(),
                **{part: facts["metrics"] for part, facts in described.items()},
                **self.frontend_metrics(),
                **self.beside,
            }
            if with_metrics
            else {},
        )

    @property
    def is_settled(self) -> bool:
        """After a restart, heartbeats must come in before an absence means anything."""
        is_old = self._now_s() - self._born_s > GONE_AFTER_S
        gateways = self._conductor.current.gateways
        return is_old or all(gateway in self._members.members for gateway in gateways)

    @property
    def pause(self) -> str:
        """Why it is right that no gateway serves."""
        conductor = self._conductor
        if conductor.is_asleep:
            return "asleep"
        if conductor.is_waking and any(map(self._members.is_live, conductor.current.gateways)):
            conductor.is_waking = False
        return "starting" if conductor.is_waking else ""

    def _facts(self, part: str, described: dict[str, Any]) -> PartFacts:
        member = self._members.members[part]
        described = described or {"unready_reason": "no answer"}
        known = PartFacts.__dataclass_fields__
        return PartFacts(
            **{name: value for name, value in described.items() if name in known},
            id=part,
            kind=part.partition("-")[0],
            address=member.told.address,
            node=member.told.node,
            pid=member.told.pid,
            restarts=member.restarts,
            is_live=self._members.is_live(part),
        )
