"""Changes the topology of the whole cluster while it serves: prepare, shadow, commit, retire.

Until the first gateway is asked to commit, any failure undoes everything. After it there is no way
back: who cannot follow is replaced, and starts in the new topology.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cluster.control.events import EventLog
from cluster.control.part_client import PartFailedError
from cluster.control.ports import PartCalls, Registry
from galerne.errors import GalerneError
from galerne.ids import ShardId
from galerne.topology import Topology
from shards.residency import as_set

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_RETRY_S = 0.5
_TOLD_S = 3.0  # in which frontends, who ask every second, learn that the cluster is to sleep
_CALL_S = 10.0
_NOT_PREPARED = "FAILED_PRECONDITION"  # what a gateway says of an epoch that it does not know


class Stage(enum.Enum):
    """How far a change has come."""

    IDLE = "idle"
    STARTING = "starting"  # new parts load
    PREPARING = "preparing"  # the others load and connect
    SHADOWING = "shadowing"  # both placements compute the same rows
    COMMITTING = "committing"  # gateways swap, one by one
    RETIRING = "retiring"  # what only the old topology needs is released


class ChangeRefusedError(GalerneError):
    """A change of topology that cannot begin."""

    status = "FAILED_PRECONDITION"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"topology: {self.reason}"


class ChangeAbortedError(GalerneError):
    """A change that was undone before its commit; the old topology serves on."""

    status = "ABORTED"

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage, self.reason = stage, reason

    def __str__(self) -> str:
        return f"topology: undone while {self.stage}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeConfig:
    """Seconds that the stages may take."""

    start_s: float = 600.0
    prepare_s: float = 300.0
    link_s: float = 60.0
    shadow_s: float = 120.0
    commit_s: float = 45.0
    drain_s: float = 60.0


class TopologyConductor:
    """One change at a time. Belongs to one event loop."""

    def __init__(
        self,
        current: Topology,
        calls: PartCalls,
        registry: Registry,
        events: EventLog,
        config: ChangeConfig | None = None,
    ) -> None:
        self.current = current
        self.target: Topology | None = None  # of the change that goes on
        self.stage = Stage.IDLE
        self.last_error = ""
        self.is_asleep = False  # scaled to zero: no part is wanted
        self.is_waking = False  # after that, until a gateway lives
        self._is_told: Callable[[], bool] = lambda: True  # frontends know that it is to sleep
        self._calls = calls
        self._registry = registry
        self._events = events
        self._config = config or ChangeConfig()
        self.lock = asyncio.Lock()  # of whoever tells parts what to serve
        self._leaving: dict[str, Topology] = {}  # parts of the last one that are still needed

    @property
    def wanted(self) -> dict[str, Topology]:
        """Parts that shall run, and the topology that they start in."""
        if self.is_asleep and self._is_told():
            return {}
        parts = self._leaving | dict.fromkeys(self.current.parts, self.current)
        if self.target is not None and self.stage is not Stage.IDLE:
            parts = dict.fromkeys(self.target.parts, self.target) | parts
        return parts

    def sleep(self) -> None:
        """Want no part until the next ``change``. Parts end when frontends have heard of it.

        Raises:
            ChangeRefusedError: A change goes on.
        """
        self._check_idle()
        if not self.is_asleep:
            self.is_asleep, self.is_waking = True, False
            loop = asyncio.get_running_loop()
            told_s = loop.time() + _TOLD_S
            self._is_told = lambda: loop.time() >= told_s
            self._events.add("asleep", "controller", f"epoch={self.current.epoch}")

    def _wake(self, target: Topology) -> None:
        """Nothing runs, so that nothing is prepared or committed: parts start in the new one."""
        self.current, self.is_asleep, self.is_waking = target, False, True
        self._events.add("woken", "controller", f"epoch={target.epoch} mode={target.mode.value}")

    @property
    def away(self) -> tuple[str, ...]:
        """Parts that should serve and are not there; no change begins meanwhile."""
        parts = () if self.is_asleep else self.current.parts
        return tuple(sorted(part for part in parts if not self._registry.is_live(part)))

    def check(self, target: Topology) -> None:
        """Raises ChangeRefusedError if a change cannot begin now."""
        self._check_idle()
        if target.epoch <= self.current.epoch:
            raise ChangeRefusedError(f"epoch {target.epoch} is not above {self.current.epoch}")
        if self.away:
            raise ChangeRefusedError(f"{', '.join(self.away)} must come back first")

    def _check_idle(self) -> None:
        if self.stage is not Stage.IDLE:
            going = self.target.epoch if self.target else self.current.epoch
            raise ChangeRefusedError(
                f"the change to epoch {going} is {self.stage.value}; one at a time"
            )

    async def change(self, target: Topology) -> None:
        """Serve a topology; returns when the old one is retired.

        Asleep: returns at once, and the topology serves as soon as its parts have started.

        Cancelled before the commit: it is undone.

        Raises:
            ChangeRefusedError: Another change goes on, or parts are away.
            ChangeAbortedError: It was undone.
        """
        self.check(target)
        if self.is_asleep:
            self._wake(target)
            return
        self.target, self.last_error = target, ""
        self._move(Stage.STARTING)
        try:
            async with self.lock:
                await self._change(self.current, target)
        finally:  # whatever has ended it, or no other change would ever begin
            self._move(Stage.IDLE)
            self.target = None

    async def _change(self, old: Topology, target: Topology) -> None:
        self._events.add("topology_change", "controller", f"epoch={target.epoch}")
        try:
            await self._until_ready(old, target)
        except BaseException as error:  # also cancelled: new parts must end, old ones forget
            stage, reason = self.stage.value, _reason_of(error)
            await self._undo(old, target)
            self.last_error = f"undone while {stage}: {reason}"
            self._events.add("topology_aborted", "controller", self.last_error)
            if isinstance(error, GalerneError | TimeoutError):
                raise ChangeAbortedError(stage, reason) from error
            raise
        # Shards that only the old topology has are needed until no gateway steps in it.
        await self._finish(old, target, set(old.parts))

    async def resume(self, old: Topology) -> None:
        """Go on with a change from ``old`` to ``current`` that an earlier controller had begun."""
        self.target = self.current
        self._move(Stage.COMMITTING)
        async with self.lock:
            await self._finish(
                old, self.current, {p for p in old.parts if self._registry.is_live(p)}
            )

    async def _finish(self, old: Topology, target: Topology, parts: AbstractSet[str]) -> None:
        """From the commit on; ``parts`` of the old topology are left, if the new one lacks them."""
        leaving = sorted(parts - set(target.parts))
        self._leaving = {part: target if part in old.gateways else old for part in leaving}
        try:
            await self._commit(old, target)
            self._leaving = {part: target for part in leaving if part in old.gateways}
            await self._retire(old, target)
        finally:
            self._leaving = {}
            self._move(Stage.IDLE)
            self.target = None

    async def prepare_shard(self, shard: ShardId, topology: Topology) -> None:
        """Have a shard load what a topology places there, and serve its epoch beside the others.

        Raises:
            PartFailedError: It cannot, or does not answer in time.
        """
        experts = as_set(topology.placement.experts_of(shard))
        await self._calls.prepare_epoch(shard, topology.epoch, experts, self._config.prepare_s)

    def _move(self, stage: Stage) -> None:
        self.stage = stage
        logger.info("topology_stage stage=%s", stage.value)

    # -- before the commit -------------------------------------------------------------------

    async def _until_ready(self, old: Topology, target: Topology) -> None:
        async with asyncio.timeout(self._config.start_s):
            await self._until_live(sorted(set(target.parts) - set(old.parts)))
        self._move(Stage.PREPARING)
        for shard in _staying(old, target):  # one by one: they may share the memory of a host
            await self.prepare_shard(shard, target)
        link_s = self._config.link_s if target.shard_processes else self._config.prepare_s
        await _all(self._calls.prepare_topology(g, target, link_s) for g in old.gateways)
        await self._until_serving(sorted(set(target.gateways) - set(old.gateways)), target)
        self._move(Stage.SHADOWING)
        for gateway in old.gateways:
            num_rows = await self._calls.shadow(gateway, target.epoch, self._config.shadow_s)
            self._events.add("shadow_equal", gateway, f"rows={num_rows}")

    async def _until_live(self, parts: Iterable[str]) -> None:
        while missing := [part for part in parts if not self._registry.is_live(part)]:
            for part in missing:
                reason = self._registry.failure_of(part)
                if reason is not None:
                    raise PartFailedError(part, "start", reason)
            await asyncio.sleep(_POLL_S)

    async def _until_serving(self, gateways: Iterable[str], target: Topology) -> None:
        """New gateways connect when the shards serve their epoch."""
        async with asyncio.timeout(self._config.link_s):
            for gateway in gateways:
                while True:
                    state = await self._calls.state_of(gateway, _CALL_S)
                    if state.topology.epoch == target.epoch and not state.unready_reason:
                        break
                    await asyncio.sleep(_POLL_S)

    async def _undo(self, old: Topology, target: Topology) -> None:
        """Best effort: what stays prepared is replaced by the next change, and serves nobody."""
        calls: list[Awaitable[None]] = [
            self._calls.abort(gateway, target.epoch, _CALL_S) for gateway in old.gateways
        ]
        calls += [
            self._calls.retire_epochs(shard, [old.epoch], _CALL_S) for shard in old.shard_processes
        ]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                logger.warning("undo_failed reason=%s", result)
        self._move(Stage.IDLE)
        self.target = None

    # -- the commit, and after ---------------------------------------------------------------

    async def _commit(self, old: Topology, target: Topology) -> None:
        self._move(Stage.COMMITTING)
        self.current = target  # who starts from now on starts there
        for gateway in old.gateways:
            await self._commit_one(gateway, old, target)
        self._events.add(
            "topology_committed", "controller", f"epoch={target.epoch} mode={target.mode.value}"
        )

    async def _commit_one(self, gateway: str, old: Topology, target: Topology) -> None:
        """Until it has swapped, or is gone. The old epoch lives as long as a gateway needs it."""
        while self._registry.is_live(gateway):
            try:
                await self._calls.commit(gateway, target.epoch, self._config.commit_s)
            except PartFailedError as error:
                if target.epoch in self._registry.epochs_of(gateway):
                    return  # it has started anew meanwhile
                logger.warning("commit_waits gateway=%s reason=%s", gateway, error)
                await asyncio.sleep(_RETRY_S)
                if error.reason.startswith(_NOT_PREPARED):
                    await self._prepare_again(gateway, old, target)
            else:
                return
        self._events.add("gateway_lost_in_commit", gateway)

    async def _prepare_again(self, gateway: str, old: Topology, target: Topology) -> None:
        """For who has started anew after it was prepared, but before the commit: in the old one."""
        try:
            for shard in filter(self._registry.is_live, _staying(old, target)):
                await self.prepare_shard(shard, target)
            await self._calls.prepare_topology(gateway, target, self._config.link_s)
        except PartFailedError as error:
            logger.warning("not_prepared gateway=%s reason=%s", gateway, error)

    async def _retire(self, old: Topology, target: Topology) -> None:
        self._move(Stage.RETIRING)
        await _all(self._retire_one(shard, target) for shard in _staying(old, target))
        await _all(self._until_idle(gateway) for gateway in self._leaving)
        self._events.add("topology_retired", "controller", f"epoch={old.epoch}")

    async def _retire_one(self, shard: ShardId, target: Topology) -> None:
        """Until it has, or is gone, or has failed for ``prepare_s``: no change waits longer for it.

        Such a one, and one that comes back late, is told again (``straighten``).
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._config.prepare_s
        while self._registry.is_live(shard):
            try:
                await self.prepare_shard(shard, target)  # it may have started anew meanwhile
                await self._calls.retire_epochs(shard, [target.epoch], _CALL_S)
            except PartFailedError as error:
                logger.warning("retire_waits shard=%s reason=%s", shard, error)
                if loop.time() > end_s:
                    self._events.add("retire_given_up", shard, str(error))
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _until_idle(self, gateway: str) -> None:
        """A gateway that leaves finishes what it runs, or its streams move when it ends."""
        try:
            async with asyncio.timeout(self._config.drain_s):
                while True:
                    state = await self._calls.state_of(gateway, _CALL_S)
                    if not state.num_requests:
                        return
                    await asyncio.sleep(_POLL_S)
        except (TimeoutError, PartFailedError) as error:
            logger.warning("gateway_left_with_work gateway=%s reason=%s", gateway, error)


def _reason_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "it was given up"
    if isinstance(error, GalerneError | TimeoutError):
        return str(error) or "it took too long"
    return repr(error)


def _staying(old: Topology, target: Topology) -> list[ShardId]:
    """Shards that serve both."""
    return sorted(set(old.shard_processes) & set(target.shard_processes))


async def _all(calls: Iterable[Coroutine[None, None, None]]) -> None:
    """All at once; the first failure ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
