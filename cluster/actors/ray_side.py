"""What the controller does for Ray and for whoever owns the deployment, beside its own work."""

from __future__ import annotations

import asyncio
import logging
import time

import ray

from cluster.actors.launch_spec import NAMESPACE, LaunchSpec
from cluster.actors.ray_groups import remove_groups
from cluster.actors.ray_metrics import RayMetrics
from cluster.control.conductor import TopologyConductor
from cluster.control.keeper import ExpertKeeper
from cluster.control.lease import OwnerLease
from cluster.control.members import MemberBook
from cluster.control.numbers import TokenRate, look
from cluster.control.ports import Loop
from cluster.session_files import remove_accounts

logger = logging.getLogger(__name__)


class RaySide:
    """A part of the controller."""

    _spec: LaunchSpec
    _lease: OwnerLease | None = None
    _ray_metrics: RayMetrics | None = None

    def _begin_ray_side(
        self, conductor: TopologyConductor, members: MemberBook, keeper: ExpertKeeper
    ) -> None:
        spec, rate = self._spec, TokenRate()
        self._ray_metrics = RayMetrics(
            spec.app_name,
            lambda: look(members, conductor.current, len(keeper.lost), rate, time.monotonic()),
        )
        if spec.orphan_after_s is not None:
            me = ray.get_runtime_context().current_actor

            async def end() -> None:
                parts = {*conductor.wanted, *members.members}
                await asyncio.to_thread(_end_all, spec, sorted(parts))
                remove_accounts(spec.app_name)
                ray.kill(me, no_restart=True)

            self._lease = OwnerLease(spec.orphan_after_s, end)

    @property
    def _ray_loops(self) -> dict[str, Loop]:
        loops: dict[str, Loop] = {}
        if self._ray_metrics is not None:
            loops["ray_metrics"] = self._ray_metrics
        if self._lease is not None:
            loops["owner"] = self._lease
        return loops

    def _owner_lives(self) -> None:
        if self._lease is not None:
            self._lease.renew()

    async def spec(self) -> LaunchSpec:
        """Of this deployment, for a new owner."""
        return self._spec

    def __repr__(self) -> str:
        """For Ray's pages and logs."""
        return f"Controller({self._spec.app_name})"


def _end_all(spec: LaunchSpec, parts: list[str]) -> None:
    if spec.scaling is not None:
        remove_groups(spec)
    for part in parts:
        try:
            actor = ray.get_actor(spec.actor_name(part), namespace=NAMESPACE)
        except ValueError:  # it has ended
            continue
        ray.kill(actor, no_restart=True)
        logger.warning("orphan_ended part=%s", part)
