"""The controller: who serves, where. Never on the path of a token."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from router.engine.gateway_port import PartFacts
from router.gateway.roster import Roster

HEARTBEAT_S = 1.0
GONE_AFTER_S = 5.0  # without a heartbeat
_DESCRIBE_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Member:
    """A shard or gateway as it reports itself."""

    address: str
    pid: int
    node: str
    restarts: int = 0
    heard_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class StartReport:
    """How far the parts have come, for the one who waits."""

    progress: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)


class Controller:
    """State is rebuilt from heartbeats after a restart; the topology comes with the spec."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        self._members: dict[str, Member] = {}
        self._start = StartReport()
        self._born_s = time.monotonic()

    async def heartbeat(self, part: str, address: str, pid: int, node: str) -> None:
        """A part lives and listens at an address."""
        known = self._members.get(part)
        if known is None:
            self._members[part] = Member(address, pid, node)
        else:
            known.restarts += known.pid != pid
            known.address, known.pid, known.node = address, pid, node
            known.heard_s = time.monotonic()

    async def progress(self, part: str, what: str, done: int, of: int) -> None:
        """A part loads."""
        self._start.progress[part] = (what, done, of)

    async def failed(self, part: str, reason: str) -> None:
        """A part cannot start."""
        self._start.failures[part] = reason

    async def start_report(self) -> StartReport:
        """How far the parts have come."""
        self._start.ready = sorted(self._members)
        return self._start

    async def address_of(self, part: str) -> str | None:
        """Where a part listens, if it has said so lately."""
        member = self._members.get(part)
        return member.address if member is not None and self._is_live(member) else None

    async def roster(self, with_metrics: bool = False) -> Roster:
        """Gateways and shards that live; facts and metrics of every part if asked for."""
        topology = self._spec.topology
        live = {part: m.address for part, m in self._members.items() if self._is_live(m)}
        described = await self._describe(list(live)) if with_metrics else {}
        return Roster(
            is_settled=self._is_settled(),
            mode=topology.mode.value,
            epoch=topology.epoch,
            transport=topology.transport.value,
            micro_batches=topology.num_micro_batches,
            max_num_seqs=topology.max_num_seqs,
            max_batched_tokens=topology.max_batched_tokens,
            gateways={g: live[g] for g in topology.gateways if g in live},
            shards={s: live[s] for s in topology.shards if s in live},
            parts=tuple(self._facts(p, described.get(p, {})) for p in self._members),
            process_metrics={part: facts["metrics"] for part, facts in described.items()},
        )

    def _is_settled(self) -> bool:
        """After a restart, heartbeats must come in before an absence means anything."""
        is_old = time.monotonic() - self._born_s > GONE_AFTER_S
        return is_old or all(g in self._members for g in self._spec.topology.gateways)

    @staticmethod
    def _is_live(member: Member) -> bool:
        return time.monotonic() - member.heard_s < GONE_AFTER_S

    def _facts(self, part: str, described: dict[str, Any]) -> PartFacts:
        member = self._members[part]
        described = described or {"unready_reason": "no answer"}
        known = PartFacts.__dataclass_fields__
        return PartFacts(
            **{name: value for name, value in described.items() if name in known},
            id=part,
            kind="gateway" if part in self._spec.topology.gateways else "shard",
            address=member.address,
            node=member.node,
            pid=member.pid,
            restarts=member.restarts,
            is_live=self._is_live(member),
        )

    async def _describe(self, parts: list[str]) -> dict[str, dict[str, Any]]:
        """Ask the actors of these parts; those that do not answer in time are left out."""
        described = {}

        async def ask(part: str) -> None:
            with contextlib.suppress(Exception):  # a dead part is simply not described
                actor = ray.get_actor(self._spec.actor_name(part), namespace=NAMESPACE)
                answer = actor.describe.remote()
                described[part] = await asyncio.wait_for(answer, _DESCRIBE_TIMEOUT_S)

        await asyncio.gather(*(ask(part) for part in parts))
        return described
